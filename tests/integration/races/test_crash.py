"""Race cases 27 to 33: crashes, hangs, late responses, slow and leaving clients, huge responses."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from handler_host.plugin.errors import CircuitOpen, DeadlineExceeded, HandlerCrashed, ResponseTooLarge
from tests.support import error_of, gone, install_plugin, install_puppet, supervisor_harness, until, within

MB = 1024**2


async def test_case_27_all_dispatches_of_a_crashed_worker_get_an_error(
    tmp_path: Path,
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={"max_concurrency": 25}) as host:
        asked = [host.start(error_of(host.ask("puppet", "script", steps=["forever"]))) for _ in range(50)]
        await until(lambda: host.supervisor.status("puppet").in_flight == 25)
        assert host.supervisor.status("puppet").queued == 25
        os.kill(host.pid(), signal.SIGSEGV)
        errors = await within(asyncio.gather(*asked))
        assert {type(error) for error in errors} == {HandlerCrashed}
        assert all("SIGSEGV" in error.message for error in errors)
        assert (await host.ask())["generation"] == 2
        last = host.supervisor.status("puppet").last_exit
        assert last is not None
        assert (last.kind, last.signal, last.generation) == ("crash", signal.SIGSEGV, 1)


async def test_case_28_a_response_after_its_deadline_is_dropped(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("go")
        late = await error_of(host.ask("puppet", "script", timeout=0.1, steps=["wait:go"]))
        assert isinstance(late, DeadlineExceeded)
        assert "request_timeout" in late.message
        asked = [host.start(host.ask(number=number)) for number in range(20)]
        await host.control.signal("go")
        responses = await within(asyncio.gather(*asked))
        assert [response["number"] for response in responses] == list(range(20))


STUBBORN = """
import asyncio
from pathlib import Path
from handler_host.plugin import hookimpl, operation

class Handler:
    @hookimpl
    def activate(self, context):
        self.control = Path(context.config["control"])
        self.answered = asyncio.Event()

    @operation
    async def late(self, request: dict) -> dict:
        told = asyncio.ensure_future(asyncio.to_thread((self.control / "go").read_text))
        while not told.done():
            try:
                await asyncio.shield(told)
            except asyncio.CancelledError:
                pass
        self.answered.set()
        return {"late": True}

    @operation
    async def when_that_has_answered(self, request: dict) -> dict:
        await self.answered.wait()
        return request

    @operation
    async def slow(self, request: dict) -> dict:
        await asyncio.to_thread((self.control / "then").read_text)
        return request
"""


async def test_case_28_a_late_response_reaches_no_later_dispatch(
    tmp_path: Path,
) -> None:
    install_plugin(tmp_path, "puppet", STUBBORN)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("go", "then")
        late = await error_of(host.ask("puppet", "late", timeout=0.1))
        assert isinstance(late, DeadlineExceeded)
        asked = [host.start(host.ask("puppet", "slow", number=1))]
        await until(lambda: host.supervisor.status("puppet").in_flight == 1)
        asked.append(host.start(host.ask("puppet", "when_that_has_answered", number=2)))
        await host.control.signal("go")
        assert await within(asked[1]) == {"number": 2}
        assert not asked[0].done()
        await host.control.signal("then")
        assert await within(asked[0]) == {"number": 1}
        assert host.supervisor.status("puppet").generation == 1


async def test_case_29_crashes_open_one_handlers_circuit_breaker(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path, policy={"crash_limit": 3, "circuit_pause": 0.3}) as host:
        for _ in range(3):
            assert isinstance(await error_of(host.ask("puppet", "script", steps=["exit:3"])), HandlerCrashed)
        await until(lambda: host.state() == "failed")
        error = await error_of(host.ask())
        assert isinstance(error, CircuitOpen)
        assert error.retry_after is not None
        assert (await host.ask("other", number=1))["number"] == 1
        await until(lambda: host.state() == "cold")
        assert (await host.ask(number=2))["number"] == 2


async def test_case_29_half_open_one_dispatch_decides(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={"crash_limit": 3, "circuit_pause": 0.3}) as host:

        async def crash() -> None:
            assert isinstance(await error_of(host.ask("puppet", "script", steps=["exit:3"])), HandlerCrashed)
            await until(lambda: host.state() in ("cold", "failed"))

        for _ in range(3):
            await crash()
        await until(lambda: host.state() == "cold")
        await crash()
        # One crash is enough now.
        assert isinstance(await error_of(host.ask()), CircuitOpen)
        await until(lambda: host.state() == "cold")
        assert (await host.ask(number=1))["number"] == 1
        # The circuit breaker is closed: earlier crashes no longer count.
        await crash()
        assert (await host.ask(number=2))["number"] == 2


@pytest.mark.parametrize("how", ["SIGSTOP", "block"])
async def test_case_30_a_worker_that_misses_its_heartbeats_is_replaced(tmp_path: Path, how: str) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, workers={"heartbeat_interval": 0.05, "hang_after": 0.5}) as host:
        await host.ask()
        pid = host.pid()
        steps = ["forever"] if how == "SIGSTOP" else ["block"]
        asked = host.start(error_of(host.ask("puppet", "script", steps=steps)))
        await until(lambda: host.state() == "active")
        if how == "SIGSTOP":
            os.kill(pid, signal.SIGSTOP)
        error = await within(asked)
        assert isinstance(error, HandlerCrashed)
        assert "heartbeat timeout" in error.message
        await until(lambda: gone(pid))
        assert (await host.ask())["generation"] == 2
        last = host.supervisor.status("puppet").last_exit
        assert last is not None
        assert last.kind == "hang"


async def test_case_30_a_worker_may_block_for_less_than_hang_after(tmp_path: Path) -> None:
    """A C extension, or a model that is being read: the worker responds to nothing meanwhile."""
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, workers={"heartbeat_interval": 0.05, "hang_after": 60.0}) as host:
        await host.ask()
        pid = host.pid()
        # The worker misses many heartbeats.
        assert (await host.ask("puppet", "script", steps=["block:1"]))["pid"] == pid
        assert (await host.ask())["generation"] == 1
        assert host.supervisor.status("puppet").last_exit is None


async def test_case_30_a_host_that_was_stopped_keeps_its_workers(tmp_path: Path) -> None:
    """SIGSTOP, or a suspended machine: the host sends no heartbeat for longer than `hang_after`."""
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, workers={"heartbeat_interval": 0.1, "hang_after": 1.0}) as host:
        await host.ask()
        pid = host.pid()
        time.sleep(1.5)  # noqa: ASYNC251 - the worker runs, and the host does not
        assert (await host.ask())["pid"] == pid
        assert host.supervisor.status("puppet").last_exit is None


async def test_case_31_resources_are_closed_when_a_client_leaves(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("closed")
        other = host.start(host.ask("puppet", "script", steps=["forever"]))
        numbers: list[int] = []

        async def read() -> None:
            async for chunk in host.chunks(steps=["", "forever"], at_close="closed"):
                numbers.append(chunk["number"])

        stream = host.start(read())
        await until(lambda: bool(numbers) and host.supervisor.status("puppet").in_flight == 2)
        stream.cancel()
        await asyncio.wait({stream})
        assert host.supervisor.status("puppet").in_flight == 1
        assert await host.control.wait_for("closed") == "now"
        other.cancel()
        await asyncio.wait({other})


async def test_case_32_a_slow_client_stops_its_own_stream_and_no_other(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    window = 64 * 1024
    async with supervisor_harness(tmp_path, workers={"window": window}) as host:
        size = 8 * 1024
        flooded = host.control.directory / "flooded"
        async with host.supervisor.lease("puppet", "flood") as lease:
            call = lease.call("flood", b'{"size": %d}' % size, streamed=True, request_id="slow", timeout=None)
            assert await call.read_chunks()
            # It has filled its window, and waits; other streams continue.
            for number in range(50):
                assert (await host.ask(number=number))["number"] == number
            produced = int(flooded.read_text())
            assert produced <= window // size + 3
            for number in range(50):
                assert (await host.ask(number=number))["number"] == number
            assert int(flooded.read_text()) == produced
            taken = 0
            while taken < 4 * window:
                taken += sum(map(len, await call.read_chunks()))
            assert int(flooded.read_text()) > produced


async def test_case_33_a_response_of_64_mb_is_delivered_if_allowed(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, server={"max_answer": 65 * MB}) as host:
        response = await within(host.ask("puppet", "big", size=64 * MB))
        assert len(response) == 64 * MB


async def test_case_33_a_too_large_response_leaves_the_worker_alive(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, server={"max_answer": 1 * MB}) as host:
        error = await error_of(host.ask("puppet", "big", size=64 * MB))
        assert isinstance(error, ResponseTooLarge)
        assert "server.max_answer" in error.message
        assert (await host.ask())["generation"] == 1


async def test_the_worker_survives_a_chunk_over_the_frame_limit(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, workers={"max_frame": 64 * 1024}) as host:

        async def read() -> None:
            async for _ in host.chunks(operation="flood", size=100_000):
                pass

        error = await error_of(read())
        assert isinstance(error, ResponseTooLarge)
        assert "workers.max_frame" in error.message
        assert (await host.ask())["generation"] == 1


@pytest.mark.parametrize(
    ("sent", "told"),
    [("ffffffff", "4294967295 bytes"), ("00000003c1c1c1", "malformed"), ("00000002917f", "malformed")],
)
async def test_garbage_in_the_channel_ends_that_worker_only(tmp_path: Path, sent: str, told: str) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path) as host:
        await host.ask("other")
        error = await error_of(host.ask("puppet", "garbage", hex=sent))
        assert isinstance(error, HandlerCrashed)
        assert told in error.message
        assert (await host.ask("other"))["generation"] == 1
        assert (await host.ask())["generation"] == 2


async def test_a_frame_cut_off_by_a_crash_is_reported(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        await host.ask()
        pid = host.pid()
        error = host.start(error_of(host.ask("puppet", "garbage", hex="000000ff01")))
        await until(lambda: host.state() == "active")
        os.kill(pid, signal.SIGKILL)
        assert "SIGKILL" in (await within(error)).message
