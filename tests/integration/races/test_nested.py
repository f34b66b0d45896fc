"""Handlers that dispatch to other handlers, with real workers: responses, streams, and every way to end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from handler_host.plugin.errors import (
    DeadlineExceeded,
    DispatchCycle,
    HandlerCrashed,
    HandlerUnloaded,
    UpstreamRateLimited,
)
from tests.support import (
    WORKERS,
    SupervisorHarness,
    error_of,
    gone,
    install_plugin,
    install_puppet,
    supervisor_harness,
    until,
    within,
)


def install_relay(root: Path, *names: str) -> None:
    """Install the plugin that calls other handlers, under each of the names, and the puppet that it calls."""
    for name in names or ("relay",):
        install_plugin(root, name, (WORKERS / "relay.py").read_text(), attribute="Relay")
    install_puppet(root)


def to_puppet(operation: str, **request: Any) -> dict[str, Any]:
    return {"to": "puppet", "what": operation, "request": request}


def in_flight(host: SupervisorHarness, name: str) -> int:
    return host.supervisor.status(name).in_flight


async def test_a_handler_gets_the_response_of_a_cold_one(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        response = await host.ask("relay", "ask", **to_puppet("echo", number=7))
        assert response["answer"]["number"] == 7
        assert response["answer"]["pid"] == host.pid("puppet")
        assert response["pid"] == host.pid("relay")
        assert in_flight(host, "puppet") == in_flight(host, "relay") == 0


async def test_a_stream_passes_two_handlers_chunk_by_chunk(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("go")
        request = to_puppet("stream", steps=["", "wait:go", ""])
        chunks = host.chunks("relay", "stream", **request)
        assert (await within(anext(chunks)))["number"] == 0
        await host.control.signal("go")
        assert [chunk["number"] async for chunk in chunks] == [1, 2]


async def test_a_plain_function_may_dispatch_from_its_thread(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        response = await host.ask("relay", "in_thread", **to_puppet("echo", number=3))
        assert response["answer"]["number"] == 3


async def test_the_request_id_and_the_deadline_are_passed_on(tmp_path: Path) -> None:
    install_relay(tmp_path, "relay", "second")
    async with supervisor_harness(tmp_path) as host:
        seen = await host.ask("relay", "ask", timeout=25.0, to="second", what="shown")
        assert seen["answer"]["request_id"] == seen["request_id"] == "test"
        assert 0 < seen["answer"]["remaining"] <= 25.0
        shorter = await host.ask("relay", "ask", to="second", what="shown", within=5.0)
        assert shorter["answer"]["remaining"] <= 5.0


async def test_the_deadline_of_a_call_ends_its_dispatches(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        await host.ask("relay", "ask", **to_puppet("echo"))
        body = to_puppet("stream", steps=["forever"])
        error = host.start(error_of(host.ask("relay", "ask", timeout=0.5, **body)))
        assert isinstance(await within(error), DeadlineExceeded)
        await until(lambda: in_flight(host, "puppet") == 0)


async def test_a_response_larger_than_frame_and_window_arrives(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path, workers={"window": 64 * 1024}) as host:
        response = await host.ask("relay", "ask", **to_puppet("big", size=3_000_000))
        assert response["answer"] == "x" * 3_000_000


async def test_a_request_larger_than_a_frame_leaves_both_workers_alive(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path, workers={"max_frame": 64 * 1024}) as host:
        await host.ask("relay", "ask", **to_puppet("echo"))
        told = await host.ask("relay", "caught", **to_puppet("echo", text="x" * 100_000))
        assert told["code"] == "body_too_large"
        assert "workers.max_frame" in told["message"]
        assert host.supervisor.status("relay").generation == 1


async def test_a_caller_that_reads_nothing_stops_the_stream(tmp_path: Path) -> None:
    install_relay(tmp_path)
    window, size = 64 * 1024, 8 * 1024
    async with supervisor_harness(tmp_path, workers={"window": window}) as host:
        async with host.supervisor.lease("relay", "stream") as lease:
            body = b'{"to": "puppet", "what": "flood", "request": {"size": %d}}' % size
            call = lease.call("stream", body, streamed=True, request_id="slow", timeout=None)
            assert await within(call.read_chunks())
            flooded = host.control.directory / "flooded"

            async def settled() -> int:
                while True:
                    before = int(flooded.read_text() or 0)
                    for number in range(20):
                        assert (await host.ask(number=number))["number"] == number
                    if before == int(flooded.read_text() or -1):
                        return before

            # The windows of both workers and of the relay between them, not more.
            assert await within(settled()) <= (2 * window + 256 * 1024) // size + 9
            taken = 0
            while taken < 8 * window:
                taken += sum(map(len, await within(call.read_chunks())))
        await until(lambda: in_flight(host, "puppet") == 0)


async def test_an_abandoned_stream_ends_with_the_operation(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        assert await host.ask("relay", "first", count=3, **to_puppet("flood", size=10_000)) == {"size": 30_000}
        await until(lambda: in_flight(host, "puppet") == 0)


@pytest.mark.parametrize("chain", [["relay"], ["relay", "b"], ["relay", "b", "c"]], ids=len)
async def test_a_dispatch_to_itself_or_up_the_chain_is_refused(tmp_path: Path, chain: list[str]) -> None:
    install_relay(tmp_path, *chain)
    async with supervisor_harness(tmp_path, policy={"max_concurrency": 1}) as host:
        request: dict[str, Any] = {"to": chain[0], "what": "shown"}
        for name in reversed(chain[1:]):
            request = {"to": name, "what": "ask", "request": request}
        error = await error_of(host.ask("relay", "ask", **request))
        assert isinstance(error, DispatchCycle)
        assert error.message.endswith(" → ".join([*chain, chain[0]]))


async def test_the_same_handler_twice_in_parallel_is_allowed(tmp_path: Path) -> None:
    install_relay(tmp_path, "relay", "b")
    async with supervisor_harness(tmp_path) as host:
        work = [host.ask("relay", "ask", to="b", what="ask", request=to_puppet("echo", n=n)) for n in range(20)]
        responses = await within(asyncio.gather(*work))
        assert [response["answer"]["answer"]["n"] for response in responses] == list(range(20))


async def test_an_error_keeps_its_code_and_names_its_handler(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        error = await error_of(host.ask("relay", "ask", **to_puppet("refuse", limit=True)))
        assert isinstance(error, UpstreamRateLimited)
        assert (error.message, error.retry_after) == ("puppet: too many", 7.0)
        unknown = await host.ask("relay", "caught", to="pupet", what="echo")
        assert unknown["code"] == "unknown_handler"
        wrong = await host.ask("relay", "caught", to="puppet", what="eco")
        assert wrong["code"] == "unknown_operation"


async def test_a_response_of_another_type_is_reported(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        error = await error_of(host.ask("relay", "typed", to="puppet", what="echo"))
        assert error.code == "handler_error"
        assert "puppet: the response of echo" in error.message


async def test_the_client_leaves_and_both_dispatches_are_cancelled(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("closed")
        got: list[int] = []

        async def read() -> None:
            request = to_puppet("stream", steps=["", "forever"], at_close="closed")
            async for chunk in host.chunks("relay", "stream", **request):
                got.append(chunk["number"])

        client = host.start(read())
        await until(lambda: bool(got))
        assert in_flight(host, "puppet") == in_flight(host, "relay") == 1
        client.cancel()
        await asyncio.wait({client})
        assert await host.control.wait_for("closed") == "now"
        await until(lambda: in_flight(host, "puppet") == in_flight(host, "relay") == 0)


async def test_a_dead_callers_dispatches_are_cancelled(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("started", "closed")
        request = to_puppet("stream", steps=["tell:started", "forever"], at_close="closed")
        error = host.start(error_of(host.ask("relay", "ask", **request)))
        # Earlier it could be cancelled before it has opened anything.
        assert await host.control.wait_for("started") == "now"
        os.kill(host.pid("relay"), signal.SIGKILL)
        assert isinstance(await within(error), HandlerCrashed)
        assert await host.control.wait_for("closed") == "now"
        await until(lambda: in_flight(host, "puppet") == 0)
        assert host.supervisor.status("puppet").generation == 1


async def test_the_caller_gets_a_clear_error_of_a_dead_worker(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        asked = host.start(host.ask("relay", "caught", **to_puppet("script", steps=["forever"])))
        await until(lambda: host.state("puppet") == "active")
        os.kill(host.pid("puppet"), signal.SIGSEGV)
        told = await within(asked)
        assert told["code"] == "handler_crashed"
        assert "puppet" in told["message"]
        assert "SIGSEGV" in told["message"]
        again = await host.ask("relay", "ask", **to_puppet("echo"))
        assert again["answer"]["generation"] == 2


async def test_an_unload_of_the_caller_waits_for_its_dispatches(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("go")
        asked = host.start(host.ask("relay", "ask", **to_puppet("script", steps=["wait:go"])))
        await until(lambda: host.state("puppet") == "active")
        pid = host.pid("relay")
        unload = host.start(host.supervisor.unload("relay", "drain", 30.0))
        await until(lambda: host.state("relay") == "draining")
        await host.control.signal("go")
        assert "pid" in (await within(asked))["answer"]
        assert (await within(unload)).drained == 1
        assert gone(pid)


async def test_a_call_in_flight_may_dispatch_while_draining(tmp_path: Path) -> None:
    install_relay(tmp_path, "relay", "b")
    async with supervisor_harness(tmp_path) as host:
        await host.ask("b", "ask", **to_puppet("echo"))
        host.control.make("go")
        request: dict[str, Any] = {"to": "b", "what": "ask", "request": to_puppet("script", steps=["wait:go"])}
        asked = host.start(host.ask("relay", "ask", **request))
        await until(lambda: in_flight(host, "b") == 1)
        host.supervisor.begin_drain()
        assert (await error_of(host.ask("relay", "ask", **to_puppet("echo")))).code == "draining"
        await host.control.signal("go")
        assert "answer" in (await within(asked))["answer"]


async def test_a_forced_unload_reaches_the_calling_handler(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        error = host.start(error_of(host.ask("relay", "ask", **to_puppet("script", steps=["forever"]))))
        await until(lambda: host.state("puppet") == "active")
        await within(host.supervisor.unload("puppet", "force", 0.0))
        assert isinstance(await within(error), HandlerUnloaded)
        assert host.supervisor.status("relay").generation == 1


async def test_a_forced_unload_of_the_caller_ends_its_dispatches(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("started", "closed")
        request = to_puppet("stream", steps=["tell:started", "forever"], at_close="closed")
        error = host.start(error_of(host.ask("relay", "ask", **request)))
        # Earlier it could be cancelled before it has opened anything.
        assert await host.control.wait_for("started") == "now"
        await within(host.supervisor.unload("relay", "force", 0.0))
        assert isinstance(await within(error), HandlerUnloaded)
        assert await host.control.wait_for("closed") == "now"
        await until(lambda: in_flight(host, "puppet") == 0)


async def test_a_dispatch_that_is_not_awaited_ends_with_its_operation(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        await host.ask("relay", "forgotten", **to_puppet("script", steps=["forever"]))
        told = await host.ask("relay", "what_became")
        assert "has ended before the response arrived" in told["results"][0]
        await until(lambda: in_flight(host, "puppet") == 0)


async def test_nothing_is_dispatched_while_the_handler_activates(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        assert "activate" in (await host.ask("relay", "what_became"))["early"]
        assert host.state("puppet") == "cold"


async def test_a_background_task_dispatches_without_a_call(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        response = await host.ask("relay", "by_itself", **to_puppet("echo", number=5))
        assert response["answer"]["number"] == 5


async def test_an_inline_handler_dispatches_like_one_in_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    install_relay(tmp_path, "relay", "inline_one")
    async with supervisor_harness(tmp_path, handlers={"inline_one": {"isolation": "inline"}}) as host:
        response = await host.ask("inline_one", "ask", to="relay", what="ask", request=to_puppet("echo", number=1))
        assert response["answer"]["answer"]["number"] == 1
        cycle: dict[str, Any] = {"to": "relay", "what": "ask", "request": {"to": "inline_one", "what": "shown"}}
        assert isinstance(await error_of(host.ask("inline_one", "ask", **cycle)), DispatchCycle)


async def test_clients_that_leave_at_any_moment_leave_nothing_in_flight(tmp_path: Path) -> None:
    install_relay(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        await host.ask("relay", "ask", **to_puppet("echo"))
        for turns in range(60):
            client = host.start(host.ask("relay", "ask", **to_puppet("echo", turns=turns)))
            for _ in range(turns):
                await asyncio.sleep(0)
            client.cancel()
            await asyncio.wait({client})
        await until(lambda: in_flight(host, "puppet") == in_flight(host, "relay") == 0)
        assert (await host.ask("relay", "ask", **to_puppet("echo", number=1)))["answer"]["number"] == 1
        assert host.supervisor.status("relay").generation == host.supervisor.status("puppet").generation == 1
