"""The event hub numbers events, replays past ones and bounds the queue of each listener."""

from __future__ import annotations

import json

import pytest

from handler_host._internal import log as logs
from handler_host.telemetry.events import Event, EventFilter, EventHub
from tests.support import within

EVERYTHING = EventFilter()


def numbers(events: list[Event]) -> list[int]:
    return [json.loads(event.data)["n"] for event in events]


def last_id(hub: EventHub) -> str:
    identifier = json.loads(list(hub.past)[-1].data)["id"]
    assert isinstance(identifier, str)
    return identifier


def publish(hub: EventHub, *values: int) -> None:
    for number in values:
        hub.publish("ready", {"n": number})


class TestListener:
    async def test_gets_the_events_after_its_start(self) -> None:
        hub = EventHub()
        publish(hub, 0)
        with hub.listen(EVERYTHING) as listener:
            hub.publish("activated", {"n": 1, "handler": "a"})
            hub.publish("unloaded", {"n": 2, "handler": "a"})
            batch = await within(listener.next())
            assert (batch.lost, numbers(batch.events)) == (0, [1, 2])
            assert [event.handler for event in batch.events] == ["a", "a"]
        assert hub.listeners == 0

    async def test_filter_by_handler_and_kind(self) -> None:
        hub = EventHub()
        with hub.listen(EventFilter(frozenset({"a"}), frozenset({"activated", "failed"}))) as listener:
            for number, (kind, handler) in enumerate(
                [("activated", "b"), ("unloaded", "a"), ("failed", "a"), ("drain", "")]
            ):
                hub.publish(kind, {"n": number, "handler": handler})
            assert numbers((await within(listener.next())).events) == [2]

    async def test_slow_one_loses_the_oldest_and_no_other_does(self) -> None:
        hub = EventHub(queue=3)
        with hub.listen(EVERYTHING) as slow, hub.listen(EVERYTHING) as fast:
            received = []
            for number in range(10):
                publish(hub, number)
                received += numbers((await within(fast.next())).events)
            batch = await within(slow.next())
            assert (batch.lost, numbers(batch.events)) == (7, [7, 8, 9])
            assert received == list(range(10))
            assert hub.lost == 7
            publish(hub, 10)
            assert (await within(slow.next())).lost == 0

    async def test_close_delivers_the_queue_and_ends(self) -> None:
        hub = EventHub()
        with hub.listen(EVERYTHING) as listener:
            hub.publish("stopping", {"n": 0})
            hub.close()
            assert numbers((await within(listener.next())).events) == [0]
            assert await within(listener.next()) is None
        with hub.listen(EVERYTHING) as late:
            assert await within(late.next()) is None


class TestReplay:
    async def test_after_an_id(self) -> None:
        hub = EventHub(ring=4)
        publish(hub, 0)
        first = last_id(hub)
        publish(hub, 1, 2)
        with hub.listen(EVERYTHING, after=first) as listener:
            batch = await within(listener.next())
            assert (batch.lost, numbers(batch.events)) == (0, [1, 2])
        publish(hub, *range(3, 8))
        with hub.listen(EVERYTHING, after=first) as listener:
            batch = await within(listener.next())
            assert (batch.lost, numbers(batch.events)) == (3, [4, 5, 6, 7])

    @pytest.mark.parametrize(
        "after", ["of-another-run-3", "", "-1", "x", "99999999999999999999", "{run}-99", "{run}-²"]
    )
    async def test_after_an_id_of_another_run(self, after: str) -> None:
        hub = EventHub()
        publish(hub, 0)
        with hub.listen(EVERYTHING, after=after.format(run=hub.run)) as listener:
            batch = await within(listener.next())
            assert (batch.lost, numbers(batch.events)) == (None, [0])

    @pytest.mark.parametrize(("replay", "expected"), [(2, [3, 4]), (100, [0, 1, 2, 3, 4])])
    async def test_last_events(self, replay: int, expected: list[int]) -> None:
        hub = EventHub(queue=2)
        publish(hub, *range(5))
        with hub.listen(EVERYTHING, replay=replay) as listener:
            batch = listener.pop()
            assert (batch.lost, numbers(batch.events)) == (0, expected)


class TestData:
    async def test_has_no_secret_and_survives_odd_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "_secrets", ())
        logs.register_secrets(["a-very-secret-key"])
        hub = EventHub()
        hub.publish("failed", {"error": "no a-very-secret-key here", "odd": object(), "half": "\ud800"})
        (event,) = hub.past
        content = json.loads(event.data)
        assert content["error"] == "no *** here"
        assert content["half"] == "\ud800"
