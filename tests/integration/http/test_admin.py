"""The operators' routes, and what probes are told meanwhile."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.http.serving import ADMIN, events, running
from tests.support import gone, install_plugin, install_puppet, until, within

SSE = {"Accept": "text/event-stream", "Content-Type": "application/json"}
OPERATOR = {"Authorization": f"Bearer {ADMIN}"}


async def test_load_and_unload_return_receipts_and_may_be_repeated(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        status, loaded = await host.admin("POST", "/handlers/puppet/load")
        assert (status, loaded["handler"], loaded["generation"], loaded["already"]) == (200, "puppet", 1, False)
        status, again = await host.admin("POST", "/handlers/puppet/load")
        assert (status, again["pid"], again["already"]) == (200, loaded["pid"], True)
        status, shown = await host.admin("GET", "/handlers/puppet")
        assert (status, shown["state"], shown["pid"]) == (200, "idle", loaded["pid"])
        status, unloaded = await host.admin("POST", "/handlers/puppet/unload")
        assert (status, unloaded["generation"], unloaded["was"]) == (200, 1, "idle")
        assert gone(loaded["pid"])
        status, nothing = await host.admin("POST", "/handlers/puppet/unload")
        assert (status, nothing["generation"], nothing["was"]) == (200, None, "cold")


@pytest.mark.parametrize("sent", ["query", "body"])
async def test_a_busy_handler_ends_by_force_and_not_if_idle(tmp_path: Path, sent: str) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        body = '{"steps": ["", "forever"]}'
        async with host.ask("POST", "/v1/handlers/puppet/stream", data=body, headers=SSE) as stream:
            await within(stream.content.readuntil(b"\n\n"))

            async def unload(mode: str) -> tuple[int, dict[str, Any]]:
                options = {"params": {"mode": mode}} if sent == "query" else {"json": {"mode": mode}}
                return await host.admin("POST", "/handlers/puppet/unload", **options)

            status, response = await unload("if_idle")
            assert (status, response["error"]["code"]) == (409, "handler_busy")
            status, response = await unload("force")
            assert (status, response["killed"]) == (200, 1)
            name, error = events(await within(stream.text()))[-1]
            assert (name, error["error"]["code"]) == ("error", "handler_unloaded")


async def test_a_drain_that_runs_out_of_time_is_ended_at_its_deadline(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        host.control.make("started")
        body = '{"steps": ["tell:started", "forever"]}'
        asked = asyncio.ensure_future(host.json("POST", "/v1/handlers/puppet/script", data=body))
        await host.control.wait_for("started")
        status, receipt = await host.admin("POST", "/handlers/puppet/unload", json={"deadline_s": 0.1})
        assert (status, receipt["drained"], receipt["killed"]) == (200, 0, 1)
        status, response = await asked
        assert (status, response["error"]["code"]) == (503, "handler_unloaded")


async def test_without_waiting_the_answer_is_202_and_the_work_goes_on(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        assert await host.admin("POST", "/handlers/puppet/load?wait=false") == (202, {"accepted": True})
        await until(lambda: host.supervisor.status("puppet").state == "idle")
        assert await host.admin("POST", "/handlers/puppet/unload", json={"wait": False}) == (202, {"accepted": True})
        await until(lambda: host.supervisor.status("puppet").state == "cold")


async def test_a_disconnect_of_an_operator_does_not_cancel_the_action(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    handlers = {"puppet": {"control": f"{tmp_path}/control", "at_activation": "tell:started wait:go"}}
    async with running(tmp_path, handlers=handlers) as host:
        host.control.make("started", "go")
        asked = asyncio.ensure_future(host.admin("POST", "/handlers/puppet/load"))
        await host.control.wait_for("started")
        asked.cancel()
        await host.control.signal("go")
        await until(lambda: host.supervisor.status("puppet").state == "idle")


async def test_a_load_that_fails_says_why(tmp_path: Path) -> None:
    install_plugin(tmp_path, "broken", "raise ImportError('no module named gizmo')")
    async with running(tmp_path) as host:
        status, response = await host.admin("POST", "/handlers/broken/load")
        assert (status, response["error"]["code"]) == (502, "activation_failed")
        assert "gizmo" in response["error"]["message"]


async def test_a_rescan_finds_what_was_installed_and_a_reload_runs_it(tmp_path: Path) -> None:
    source = """
from handler_host.plugin import operation
class Handler:
    @operation
    async def version(self, request: dict) -> int:
        return VERSION
"""
    install_plugin(tmp_path, "one", source + "VERSION = 1\n")
    async with running(tmp_path) as host:
        assert await host.json("POST", "/v1/handlers/one/version") == (200, 1)
        install_puppet(tmp_path)
        install_plugin(tmp_path, "one", source + "VERSION = 22\n", version="2.0")
        status, report = await host.admin("POST", "/rescan")
        assert (status, report["added"], report["changed"]) == (200, ["puppet"], ["one"])
        assert await host.json("POST", "/v1/handlers/one/version") == (200, 1)
        status, receipt = await host.admin("POST", "/handlers/one/reload")
        assert (status, receipt["generation"]) == (200, 1)
        assert await host.json("POST", "/v1/handlers/one/version") == (200, 22)


async def test_memory_is_told_by_process(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        await host.supervisor.load("puppet")
        status, report = await host.admin("GET", "/memory")
        assert status == 200
        assert report["used"] >= report["host"] + report["workers"]["puppet"]["pss"]
        assert report["limit"] >= report["usable"] > 0


@pytest.mark.parametrize(
    ("path", "options", "param", "said"),
    [
        ("/handlers/puppet/unload", {"params": {"mod": "drain"}}, "mod", "did you mean 'mode'?"),
        ("/handlers/puppet/unload", {"params": {"mode": "drian"}}, "mode", "drain, if_idle or force"),
        ("/handlers/puppet/unload", {"json": {"deadline_s": -1}}, "deadline_s", "seconds"),
        ("/handlers/puppet/unload", {"params": {"deadline_s": "nan"}}, "deadline_s", "seconds"),
        ("/handlers/puppet/reload", {"json": {"wait": "perhaps"}}, "wait", "true or false"),
        ("/handlers/puppet/load", {"json": {"mode": "drain"}}, "mode", "unknown option"),
        ("/rescan", {"json": {"x": 1}}, "x", "unknown option"),
        ("/drain", {"params": {"x": 1}}, "x", "unknown option"),
        ("/handlers/puppet/load", {"json": [1]}, None, "JSON object"),
    ],
)
async def test_a_wrong_option_is_named_and_nothing_is_done(
    tmp_path: Path, path: str, options: dict[str, object], param: str | None, said: str
) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        status, response = await host.admin("POST", path, **options)
        assert (status, response["error"]["code"], response["error"]["param"]) == (400, "invalid_input", param)
        assert said in response["error"]["message"]
        assert host.supervisor.status("puppet").state == "cold"
        assert not host.supervisor.draining


@pytest.mark.parametrize("path", ["load", "unload", "reload"])
async def test_an_unknown_handler_is_404(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as host:
        status, response = await host.admin("POST", f"/handlers/nobody/{path}")
        assert (status, response["error"]["code"]) == (404, "unknown_handler")


async def test_the_host_is_ready_in_every_state_of_a_handler(tmp_path: Path) -> None:
    install_plugin(tmp_path, "broken", "raise ImportError('no module named gizmo')")
    install_puppet(tmp_path)
    handlers = {"puppet": {"control": f"{tmp_path}/control", "at_activation": "tell:started wait:go"}}
    async with running(tmp_path, handlers=handlers) as host:
        host.control.make("started", "go")
        assert await host.json("GET", "/health/ready") == (
            200,
            {"ready": True, "reasons": [], "handlers": {"cold": 2}, "pending": {}},
        )
        await host.json("POST", "/v1/handlers/broken/any")
        await host.admin("POST", "/handlers/puppet/load?wait=false")
        await host.control.wait_for("started")
        assert await host.json("GET", "/health/ready") == (
            200,
            {"ready": True, "reasons": [], "handlers": {"activating": 1, "failed": 1}, "pending": {}},
        )
        await host.control.signal("go")


async def test_a_draining_host_is_live_and_finishes_its_requests(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        host.control.make("more")
        body = '{"steps": ["", "wait:more"]}'
        async with host.ask("POST", "/v1/handlers/puppet/stream", data=body, headers=SSE) as stream:
            await within(stream.content.readuntil(b"\n\n"))
            status, response = await host.admin("POST", "/drain")
            assert (status, response["draining"], response["in_flight"]) == (200, True, 1)
            assert (await host.json("GET", "/health/live"))[0] == 200
            status, response = await host.json("GET", "/health/ready")
            assert (status, response["ready"], response["reasons"]) == (503, False, ["draining: new work is refused"])
            async with host.ask("POST", "/v1/handlers/puppet/echo") as refused:
                assert (refused.status, (await refused.json())["error"]["code"]) == (503, "draining")
                assert "Retry-After" in refused.headers
            await host.control.signal("more")
            assert events(await within(stream.text()))[-1] == ("end", {})


async def test_a_dispatch_after_an_unload_runs_in_the_next_worker(tmp_path: Path) -> None:
    """Not in the old one, which a forced unload would kill: a measurement before the unload may take its time."""
    install_puppet(tmp_path)
    measured = threading.Event()
    async with running(tmp_path) as host:
        await host.admin("POST", "/handlers/puppet/load")
        generation = host.supervisor.status("puppet").generation
        blocked = asyncio.ensure_future(host.supervisor._memory.sampler.run(measured.wait))
        try:
            status, _ = await host.admin("POST", "/handlers/puppet/unload", params={"mode": "force", "wait": "false"})
            assert status == 202
            assert host.supervisor.status("puppet").state != "idle"
        finally:
            measured.set()
            await blocked
        assert (await host.json("POST", "/v1/handlers/puppet/echo", data="{}"))[0] == 200
        assert host.supervisor.status("puppet").generation == generation + 1
