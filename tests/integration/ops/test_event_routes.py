"""``GET /admin/events``: the lifecycle of handlers as server-sent events; pins."""

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
    received: list[dict[str, Any]] = []
    while not received or received[-1]["kind"] != kind:
        block = (await within(response.content.readuntil(b"\n\n"))).decode()
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            received.append(json.loads(fields["data"]))
            assert fields.get("id") == received[-1].get("id")
    return received


async def past(host: Host, query: str = "", **headers: str) -> list[tuple[str, Any]]:
    async with host.ask("GET", f"/admin/events?follow=false&{query}", headers=OPERATOR | headers) as response:
        assert response.status == 200, await response.text()
        return events(await within(response.text()))


def past_kinds(host: Host) -> list[str]:
    return [event.kind for event in host.supervisor.telemetry.events.past]


class TestStream:
    async def test_has_each_step_of_a_handler(self, tmp_path: Path) -> None:
        install_puppet(tmp_path)
        async with running(tmp_path) as host:
            async with host.ask("GET", "/admin/events", headers=OPERATOR) as stream:
                assert stream.headers["Content-Type"].startswith("text/event-stream")
                await host.supervisor.load("puppet")
                await host.supervisor.unload("puppet")
                steps = [event for event in await read(stream, "unloaded") if event["kind"] != "audit"]
            assert [event["kind"] for event in steps] == ["activating", "activated", "draining", "unloaded"]
            assert all((event["handler"], event["generation"]) == ("puppet", 1) for event in steps)
            _, activated, draining, unloaded = steps
            assert activated["seconds"] > 0
            assert activated["workers"]["puppet"] > 0
            assert (draining["cause"], unloaded["cause"]) == ("operator", "operator")
            assert unloaded["given_back"] > 0
            assert [event["at"] for event in steps] == sorted(event["at"] for event in steps)

    async def test_ends_with_the_host_after_its_last_event(self, tmp_path: Path) -> None:
        async with running(tmp_path) as host, host.ask("GET", "/admin/events?replay=all", headers=OPERATOR) as stream:
            assert [event["kind"] for event in await read(stream, "startup")] == ["startup"]
            await within(host.supervisor.close())
            assert [event["kind"] for _, event in events((await within(stream.read())).decode())] == ["stopping"]

    async def test_fifty_clients_share_one_measurement(self, tmp_path: Path) -> None:
        install_puppet(tmp_path)
        async with running(tmp_path) as host, contextlib.AsyncExitStack() as stack:
            requests = [host.ask("GET", "/admin/events?kind=activated", headers=OPERATOR) for _ in range(50)]
            streams = [await stack.enter_async_context(request) for request in requests]
            await host.supervisor.load("puppet")
            received = [(await read(stream, "activated"))[-1] for stream in streams]
            assert {event["id"] for event in received} == {received[0]["id"]}
            responses = await asyncio.gather(*(host.admin("GET", "/overview") for _ in range(50)))
            assert {status for status, _ in responses} == {200}
            # Separate measurements would differ by some pages.
            assert len({response["history"][-1][0] for _, response in responses}) == 1
            assert len({response["memory"]["used"] for _, response in responses}) == 1

    async def test_disconnected_client_leaves_no_listener(self, tmp_path: Path) -> None:
        async with running(tmp_path) as host:
            hub = host.supervisor.telemetry.events
            async with host.ask("GET", "/admin/events", headers=OPERATOR) as stream:
                await within(stream.content.readuntil(b"\n\n"))
                assert hub.listeners == 1
            await until(lambda: hub.listeners == 0)


class TestOptions:
    async def test_last_event_id(self, tmp_path: Path) -> None:
        install_puppet(tmp_path)
        async with running(tmp_path) as host:
            (_, first), *_ = await past(host, "replay=1")
            await host.supervisor.load("puppet")
            await until(lambda: "activated" in past_kinds(host))
            kinds = [event["kind"] for _, event in await past(host, **{"Last-Event-ID": first["id"]})]
            assert kinds == ["activating", "activated"]
            name, gap = (await past(host, **{"Last-Event-ID": "another-1"}))[0]
            assert (name, gap["lost"]) == ("gap", None)

    async def test_handler_and_kind(self, tmp_path: Path) -> None:
        install_puppet(tmp_path)
        install_puppet(tmp_path, "other")
        async with running(tmp_path, handlers={"other": {}}) as host:
            for name in ("puppet", "other"):
                await host.supervisor.load(name)
            await until(lambda: past_kinds(host).count("activated") == 2)
            matches = [
                (event["kind"], event["handler"])
                for _, event in await past(host, "handler=other&kind=activated,failed")
            ]
            assert matches == [("activated", "other")]

    @pytest.mark.parametrize(
        ("query", "expected", "word"),
        [
            ("kind=activate", 400, "'activated'"),
            ("handler=nobody", 404, "nobody"),
            ("replay=-1", 400, "replay"),
            ("replay=²", 400, "replay"),
            ("follow=maybe", 400, "true or false"),
            ("since=1", 400, "since"),
        ],
    )
    async def test_invalid(self, tmp_path: Path, query: str, expected: int, word: str) -> None:
        async with running(tmp_path) as host:
            status, response = await host.admin("GET", f"/events?{query}")
            assert status == expected
            assert word in response["error"]["message"]


class TestPin:
    async def test_keeps_a_handler_loaded_until_unpin(self, tmp_path: Path) -> None:
        install_puppet(tmp_path)
        async with running(tmp_path) as host:
            await host.supervisor.load("puppet")
            status, report = await host.admin("POST", "/handlers/puppet/pin")
            assert (status, report["pin"], report["expires_in"]) == (200, True, None)
            await host.supervisor.rescan()
            assert host.supervisor.status("puppet").pin
            status, report = await host.admin("POST", "/handlers/puppet/unpin")
            assert (report["pin"], report["expires_in"] is not None) == (False, True)
            assert [event["pin"] for _, event in await past(host, "kind=pinned")] == [True, False]
            assert (await host.admin("POST", "/handlers/nobody/pin"))[0] == 404
