"""Events: numbered, kept for who comes late, and lost oldest first by who is too slow."""

from __future__ import annotations

import json

import pytest

from handler_host._internal import log as logs
from handler_host.telemetry.events import Event, EventHub, Wanted
from tests.support import within


def told(events: list[Event]) -> list[int]:
    return [json.loads(event.data)["n"] for event in events]


async def test_a_listener_hears_what_happens_from_now_on_and_waits_for_it() -> None:
    hub = EventHub()
    hub.publish("ready", {"n": 0})
    with hub.listen(Wanted()) as listener:
        hub.publish("activated", {"n": 1, "handler": "a"})
        hub.publish("unloaded", {"n": 2, "handler": "a"})
        batch = await within(listener.next())
        assert (batch.lost, told(batch.events)) == (0, [1, 2])
        assert [event.handler for event in batch.events] == ["a", "a"]
    assert hub.listeners == 0


async def test_a_listener_hears_only_the_handlers_and_kinds_that_it_wants() -> None:
    hub = EventHub()
    with hub.listen(Wanted(frozenset({"a"}), frozenset({"activated", "failed"}))) as listener:
        for number, (kind, handler) in enumerate(
            [("activated", "b"), ("unloaded", "a"), ("failed", "a"), ("drain", "")]
        ):
            hub.publish(kind, {"n": number, "handler": handler})
        assert told((await within(listener.next())).events) == [2]


async def test_a_slow_listener_loses_the_oldest_and_is_told_how_many_while_others_lose_nothing() -> None:
    hub = EventHub(queue=3)
    with hub.listen(Wanted()) as slow, hub.listen(Wanted()) as quick:
        heard = []
        for number in range(10):
            hub.publish("ready", {"n": number})
            heard += told((await within(quick.next())).events)
        batch = await within(slow.next())
        assert (batch.lost, told(batch.events)) == (7, [7, 8, 9])
        assert heard == list(range(10))
        assert hub.lost == 7
        hub.publish("ready", {"n": 10})
        assert (await within(slow.next())).lost == 0


def id_of(event: Event) -> str:
    identifier = json.loads(event.data)["id"]
    assert isinstance(identifier, str)
    return identifier


async def test_who_was_away_gets_what_came_since_and_is_told_what_is_kept_no_more() -> None:
    hub = EventHub(ring=4)
    ids = []
    for number in range(3):
        hub.publish("ready", {"n": number})
        ids.append(id_of(list(hub.past)[-1]))
    with hub.listen(Wanted(), after=ids[0]) as listener:
        batch = await within(listener.next())
        assert (batch.lost, told(batch.events)) == (0, [1, 2])
    for number in range(3, 8):
        hub.publish("ready", {"n": number})
    with hub.listen(Wanted(), after=ids[0]) as listener:
        batch = await within(listener.next())
        assert (batch.lost, told(batch.events)) == (3, [4, 5, 6, 7])


@pytest.mark.parametrize("after", ["of-another-run-3", "", "-1", "x", "99999999999999999999", "{run}-99", "{run}-²"])
async def test_an_id_of_another_run_brings_all_that_is_kept_and_a_word_on_it(after: str) -> None:
    hub = EventHub()
    hub.publish("ready", {"n": 0})
    with hub.listen(Wanted(), after=after.format(run=hub.run)) as listener:
        batch = await within(listener.next())
        assert (batch.lost, told(batch.events)) == (None, [0])


async def test_the_last_events_are_replayed_for_who_asks_for_them() -> None:
    hub = EventHub(queue=2)
    for number in range(5):
        hub.publish("ready", {"n": number})
    for replay, expected in ((2, [3, 4]), (100, [0, 1, 2, 3, 4])):
        with hub.listen(Wanted(), replay=replay) as listener:
            batch = listener.ready()
            assert (batch.lost, told(batch.events)) == (0, expected)


async def test_a_closed_hub_tells_what_is_queued_and_ends() -> None:
    hub = EventHub()
    with hub.listen(Wanted()) as listener:
        hub.publish("stopping", {"n": 0})
        hub.close()
        assert told((await within(listener.next())).events) == [0]
        assert await within(listener.next()) is None
    with hub.listen(Wanted()) as late:
        assert await within(late.next()) is None


async def test_no_secret_and_no_odd_value_comes_into_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_secrets", ())
    logs.register_secrets(["a-very-secret-key"])
    hub = EventHub()
    hub.publish("failed", {"error": "no a-very-secret-key here", "odd": object(), "half": "\ud800"})
    (event,) = hub.past
    content = json.loads(event.data)
    assert content["error"] == "no *** here"
    assert content["half"] == "\ud800"
