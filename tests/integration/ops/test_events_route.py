"""``GET /admin/events``: the life of handlers as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.http.serving import ADMIN, Host, events, running
from tests.support import install_puppet, until, within

OPERATOR = {"Authorization": f"Bearer {ADMIN}", "Accept": "text/event-stream"}


async def read(response: aiohttp.ClientResponse, kind: str) -> list[dict[str, Any]]:
    """Return the events up to the first one of a kind."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["kind"] != kind:
        block = (await within(response.content.readuntil(b"\n\n"))).decode()
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            found.append(json.loads(fields["data"]))
            assert fields.get("id") == found[-1].get("id")
    return found


async def past(host: Host, query: str = "", **headers: str) -> list[tuple[str, Any]]:
    async with host.ask("GET", f"/admin/events?follow=false&{query}", headers=OPERATOR | headers) as response:
        assert response.status == 200, await response.text()
        return events(await within(response.text()))


async def test_the_life_of_a_handler_is_told_while_it_happens(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        async with host.ask("GET", "/admin/events", headers=OPERATOR) as stream:
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            await host.supervisor.load("puppet")
            await host.supervisor.unload("puppet")
            told = [event for event in await read(stream, "unloaded") if event["kind"] != "audit"]
        assert [event["kind"] for event in told] == ["activating", "activated", "draining", "unloaded"]
        assert all((event["handler"], event["generation"]) == ("puppet", 1) for event in told)
        assert told[1]["seconds"] > 0
        assert told[1]["workers"]["puppet"] > 0
        assert (told[2]["cause"], told[3]["cause"]) == ("operator", "operator")
        assert told[3]["given_back"] > 0
        assert [event["at"] for event in told] == sorted(event["at"] for event in told)


async def test_who_comes_back_with_the_last_id_gets_what_was_missed(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        (_, first), *_ = await past(host, "replay=1")
        await host.supervisor.load("puppet")
        await until(lambda: any(event.kind == "activated" for event in host.supervisor.observation.events.past))
        kinds = [event["kind"] for _, event in await past(host, **{"Last-Event-ID": first["id"]})]
        assert kinds == ["activating", "activated"]
        name, gap = (await past(host, **{"Last-Event-ID": "another-1"}))[0]
        assert (name, gap["lost"]) == ("gap", None)


async def test_filters_by_handler_and_kind(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with running(tmp_path, handlers={"other": {}}) as host:
        for name in ("puppet", "other"):
            await host.supervisor.load(name)
        await until(lambda: [e.kind for e in host.supervisor.observation.events.past].count("activated") == 2)
        told = [
            (event["kind"], event["handler"]) for _, event in await past(host, "handler=other&kind=activated,failed")
        ]
        assert told == [("activated", "other")]


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [
        ("kind=activate", 400, "'activated'"),
        ("handler=nobody", 404, "nobody"),
        ("replay=-1", 400, "replay"),
        ("replay=²", 400, "replay"),
        ("follow=maybe", 400, "true or false"),
        ("since=1", 400, "since"),
    ],
)
async def test_a_wrong_option_is_named(tmp_path: Path, query: str, status: int, word: str) -> None:
    async with running(tmp_path) as host:
        given, response = await host.admin("GET", f"/events?{query}")
        assert given == status
        assert word in response["error"]["message"]


async def test_the_stream_ends_with_the_host_and_its_last_word_is_heard(tmp_path: Path) -> None:
    async with running(tmp_path) as host, host.ask("GET", "/admin/events?replay=all", headers=OPERATOR) as stream:
        assert [event["kind"] for event in await read(stream, "startup")] == ["startup"]
        await within(host.supervisor.close())
        assert [event["kind"] for _, event in events((await within(stream.read())).decode())] == ["stopping"]


async def test_fifty_viewers_hear_the_same_and_share_one_measurement(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host, contextlib.AsyncExitStack() as stack:
        asked = [host.ask("GET", "/admin/events?kind=activated", headers=OPERATOR) for _ in range(50)]
        streams = [await stack.enter_async_context(one) for one in asked]
        await host.supervisor.load("puppet")
        heard = [(await read(stream, "activated"))[-1] for stream in streams]
        assert {event["id"] for event in heard} == {heard[0]["id"]}
        responses = await asyncio.gather(*(host.admin("GET", "/overview") for _ in range(50)))
        assert {status for status, _ in responses} == {200}
        # One measurement for all of them: each of its own would differ by some pages.
        assert len({response["history"][-1][0] for _, response in responses}) == 1
        assert len({response["memory"]["used"] for _, response in responses}) == 1


async def test_a_listener_that_leaves_is_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        hub = host.supervisor.observation.events
        async with host.ask("GET", "/admin/events", headers=OPERATOR) as stream:
            await within(stream.content.readuntil(b"\n\n"))
            assert hub.listeners == 1
        await until(lambda: hub.listeners == 0)


async def test_a_pinned_handler_is_not_unloaded_for_idleness_until_it_is_unpinned(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        await host.supervisor.load("puppet")
        status, shown = await host.admin("POST", "/handlers/puppet/pin")
        assert (status, shown["pin"], shown["expires_in"]) == (200, True, None)
        await host.supervisor.rescan()
        assert host.supervisor.status("puppet").pin
        status, shown = await host.admin("POST", "/handlers/puppet/unpin")
        assert (shown["pin"], shown["expires_in"] is not None) == (False, True)
        assert [event["pin"] for _, event in await past(host, "kind=pinned")] == [True, False]
        assert (await host.admin("POST", "/handlers/nobody/pin"))[0] == 404
