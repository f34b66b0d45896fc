"""Race cases 10 to 19: unloading, with a real fork server and real workers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from handler_host.plugin.errors import HandlerBusy, HandlerCrashed, HandlerUnloaded, UnknownHandler
from handler_host.telemetry.counters import LatencyWindow
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


def tell_at(step: str, tmp_path: Path, when: str = "at_deactivation") -> dict[str, dict[str, object]]:
    return {"puppet": {"control": f"{tmp_path}/control", when: step}}


async def test_case_10_a_dispatch_during_the_stop_gets_a_new_worker(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    handlers = tell_at("tell:leaving wait:go", tmp_path)
    async with supervisor_harness(tmp_path, handlers=handlers, policy={"idle_after": 0.05}) as host:
        host.control.make("leaving", "go")
        assert (await host.ask())["generation"] == 1
        await host.control.wait_for("leaving")
        assert host.state() == "draining"
        asked = [host.start(host.ask()) for _ in range(3)]
        await asyncio.sleep(0)
        await host.control.signal("go")
        assert [response["generation"] for response in await within(asyncio.gather(*asked))] == [2, 2, 2]
        serve_later = host.start(host.ask())
        assert (await within(serve_later))["generation"] == 2
        await host.control.wait_for("leaving")
        await host.control.signal("go")


async def test_case_11_and_12_a_stream_may_pause_beyond_the_idle_time(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={"idle_after": 0.05}) as host:
        host.control.make("more")
        numbers = []
        async for chunk in host.chunks(steps=["", "wait:more", "wait:more"]):
            numbers.append(chunk["number"])
            status = host.supervisor.status("puppet")
            assert (status.state, status.in_flight, status.idle_for) == ("active", 1, None)
            if chunk["number"] < 2:
                # Longer than the idle time, by the loop's own clock.
                await asyncio.sleep(0.15)
                assert host.state() == "active"
                await host.control.signal("more")
        assert numbers == [0, 1, 2]
        await until(lambda: host.state() == "cold")
        last = host.supervisor.status("puppet").last_exit
        assert last is not None
        assert last.kind == "idle"


async def test_case_11_an_admitted_dispatch_keeps_its_worker(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={"idle_after": 0.3}) as host:
        # Warm, so that the idle timer runs when the dispatch is admitted.
        await host.ask()
        async with host.supervisor.lease("puppet", "echo") as lease:
            pid = host.pid()
            # That timer would fire now.
            await asyncio.sleep(0.5)
            assert host.state() == "active"
            call = lease.call("echo", b"{}", streamed=False, request_id="test", timeout=30.0)
            response = json.loads(await within(call.read_response()))
        assert (response["pid"], response["generation"]) == (pid, lease.generation)


async def test_case_12_the_idle_timer_restarts_when_a_stream_ends(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={"idle_after": 300.0}) as host:
        host.control.make("more")
        await host.ask()
        stream = host.start(collect(host, ["", "wait:more"]))
        await until(lambda: host.state() == "active")
        assert host.supervisor.status("puppet").expires_in is None
        before_the_end = time.monotonic()
        await host.control.signal("more")
        await within(stream)
        expires = host.supervisor.status("puppet").expires_in
        assert expires is not None
        assert expires >= 300 - (time.monotonic() - before_the_end)


async def test_case_13_an_unload_aborts_an_activation_and_its_queue(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, handlers=tell_at("tell:started block", tmp_path, "at_activation")) as host:
        host.control.make("started")
        waiting = [host.start(error_of(host.ask())) for _ in range(2)]
        await host.control.wait_for("started")
        pid = host.pid()
        receipt = await within(host.supervisor.unload("puppet"))
        assert {type(error) for error in await within(asyncio.gather(*waiting))} == {HandlerUnloaded}
        assert receipt.generation == 1
        assert gone(pid)
        assert host.state() == "cold"


async def test_case_14_two_unloads_and_an_idle_expiry_are_one_stop(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={"idle_after": 0.02}) as host:
        for generation in range(1, 6):
            assert (await host.ask())["generation"] == generation
            receipts = await within(
                asyncio.gather(host.supervisor.unload("puppet"), host.supervisor.unload("puppet"), asyncio.sleep(0.02))
            )
            assert {receipt.generation for receipt in receipts[:2]} <= {generation, None}
            assert host.state() == "cold"


async def test_case_14_unloads_share_an_idle_stop(
    tmp_path: Path,
) -> None:
    install_puppet(tmp_path)
    handlers = tell_at("tell:leaving wait:go", tmp_path)
    async with supervisor_harness(tmp_path, handlers=handlers, policy={"idle_after": 0.05, "stop_grace": 30.0}) as host:
        host.control.make("leaving", "go")
        controller = host.supervisor._controllers["puppet"]

        def joined() -> int:
            return sum(len(worker.drain.unloads) for worker in controller.state.workers if worker.drain is not None)

        await host.ask()
        await host.control.wait_for("leaving")
        unloads = [host.start(host.supervisor.unload("puppet", mode)) for mode in ("drain", "force", "if_idle")]
        await until(lambda: joined() == 3)
        asked = host.start(host.ask())
        await host.control.signal("go")
        receipts = await within(asyncio.gather(*unloads))
        assert {receipt.generation for receipt in receipts} == {1}
        assert {receipt.exit for receipt in receipts} == {"exit code 0"}
        assert (await within(asked))["generation"] == 2
        last = host.supervisor.status("puppet").last_exit
        assert last is not None
        assert (last.kind, last.generation) == ("idle", 1)
        # The new worker exits by its own idle timer, once.
        await host.control.wait_for("leaving")
        await host.control.signal("go")
        await until(lambda: host.state() == "cold")
        assert host.supervisor.status("puppet").generation == 2


async def test_case_15_drain_waits_for_the_last_byte(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("go")
        stream = host.start(collect(host, ["", "wait:go"]))
        await until(lambda: host.state() == "active")
        assert isinstance(await error_of(host.supervisor.unload("puppet", "if_idle")), HandlerBusy)
        assert host.state() == "active"
        drained = host.start(host.supervisor.unload("puppet", "drain"))
        await until(lambda: host.state() == "draining")
        await host.control.signal("go")
        assert await within(stream) == [0, 1]
        receipt = await within(drained)
        assert (receipt.drained, receipt.killed) == (1, 0)


async def collect(host: SupervisorHarness, steps: list[str]) -> list[int]:
    return [chunk["number"] async for chunk in host.chunks(steps=steps)]


@pytest.mark.parametrize("how", ["force", "deadline"])
async def test_case_15_force_and_deadline_end_a_stream_with_an_error(tmp_path: Path, how: str) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("never")
        numbers: list[int] = []

        async def read() -> None:
            async for chunk in host.chunks(steps=["", "forever"]):
                numbers.append(chunk["number"])

        stream = host.start(error_of(read()))
        await until(lambda: bool(numbers))
        if how == "force":
            receipt = await within(host.supervisor.unload("puppet", "force"))
        else:
            receipt = await within(host.supervisor.unload("puppet", "drain", 0.05))
        assert isinstance(await within(stream), HandlerUnloaded)
        assert numbers == [0]
        assert (receipt.drained, receipt.killed) == (0, 1)


async def test_case_16_an_unload_ends_after_the_exit(tmp_path: Path) -> None:
    source = "ballast = bytearray(b'x' * (64 * 1024**2))\n" + (WORKERS / "puppet.py").read_text()
    install_plugin(tmp_path, "puppet", source, attribute="Puppet")
    async with supervisor_harness(tmp_path) as host:
        await host.ask()
        await host.supervisor.unload("puppet")
        before = await host.supervisor.memory()
        loaded = await host.supervisor.load("puppet")
        pid = loaded.pid
        took = loaded.pss_after - before.used
        assert took > 64 * 1024**2
        receipt = await within(host.supervisor.unload("puppet"))
        assert gone(pid)
        assert receipt.bytes_given_back > 0.95 * took
        assert receipt.exit == "exit code 0"


async def test_receipt_log_and_events_of_an_unload_have_one_figure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install_puppet(tmp_path)
    handlers = tell_at("free tell:freed wait:go", tmp_path)
    handlers["puppet"]["at_activation"] = "allocate:64"
    with caplog.at_level(logging.INFO):
        async with supervisor_harness(tmp_path, handlers=handlers) as host:
            host.control.make("freed", "go")
            await host.supervisor.load("puppet")
            unloading = host.start(host.supervisor.unload("puppet"))
            await host.control.wait_for("freed")
            assert (await host.supervisor.memory()).workers["puppet"].pss > 64 * 1024**2
            await host.control.signal("go")
            receipt = await within(unloading)
            last = host.supervisor.status("puppet").last_exit
    hub = host.supervisor.telemetry
    events = [json.loads(event.data) for event in hub.events.past]
    (unloaded,) = (event for event in events if event["kind"] == "unloaded")
    (line,) = (record for record in caplog.records if record.message == "unloaded")
    assert last is not None
    figures = {
        "receipt": receipt.bytes_given_back,
        "last exit": last.given_back,
        "event": unloaded["given_back"],
        "log": line.__dict__["fields"]["given_back"],
        "metric": hub.counters.for_handler("puppet").given_back,
    }
    assert set(figures.values()) == {receipt.bytes_given_back}, figures
    # The whole tree of processes has shrunk by the same amount.
    assert receipt.bytes_given_back == pytest.approx(receipt.pss_before - receipt.pss_after, rel=0.05)
    assert receipt.bytes_given_back > 64 * 1024**2
    (draining,) = (event for event in events if event["kind"] == "draining")
    assert draining["workers"]["puppet"] > 64 * 1024**2


@pytest.mark.parametrize("when", ["activating", "ready"])
async def test_case_13_and_16_an_unload_waits_for_the_exit_notice(tmp_path: Path, when: str) -> None:
    """A stopped fork server sends no exit notice, whatever else has ended meanwhile."""
    install_puppet(tmp_path)
    handlers = tell_at("tell:started block", tmp_path, "at_activation") if when == "activating" else {}
    async with supervisor_harness(tmp_path, handlers=handlers) as host:
        host.control.make("started")
        asked = host.start(error_of(host.ask()) if when == "activating" else host.ask())
        if when == "activating":
            await host.control.wait_for("started")
        else:
            await within(asked)
        pid = host.pid()
        (server,) = (await host.supervisor.memory()).fork_server_pids
        os.kill(server, signal.SIGSTOP)
        try:
            unloaded = host.start(host.supervisor.unload("puppet"))
            await until(lambda: asked.done() and host.state() == "draining")
            # Everything else that an unload waits for has long been done.
            for _ in range(5):
                await host.supervisor.memory()
            assert not unloaded.done()
        finally:
            os.kill(server, signal.SIGCONT)
        receipt = await within(unloaded)
        assert gone(pid)
        assert receipt.generation == 1


async def test_case_17_a_worker_ignoring_sigterm_is_killed(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    handlers = tell_at("deaf block", tmp_path)
    async with supervisor_harness(tmp_path, handlers=handlers, policy={"stop_grace": 0.1}) as host:
        await host.ask()
        pid = host.pid()
        receipt = await within(host.supervisor.unload("puppet"))
        assert gone(pid)
        assert receipt.exit == "killed by SIGKILL"


async def test_case_18_grandchildren_with_pipes_are_killed(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("child")
        script = host.start(host.ask("puppet", "script", steps=["children"]))
        child = int(await host.control.wait_for("child"))
        await within(script)
        assert not gone(child)
        await within(host.supervisor.unload("puppet"))
        await until(lambda: gone(child))


async def test_case_19_old_dispatches_end_on_old_code(
    tmp_path: Path,
) -> None:
    puppet = (WORKERS / "puppet.py").read_text()
    install_plugin(tmp_path, "puppet", puppet, attribute="Puppet")
    async with supervisor_harness(tmp_path) as host:
        host.control.make("go")
        stream = host.start(collect(host, ["", "wait:go"]))
        await until(lambda: host.state() == "active")
        new = puppet.replace('return {**request, "pid"', 'return {"new": True, "pid"')
        install_plugin(tmp_path, "puppet", new, attribute="Puppet", version="2.0")
        reloaded = host.start(host.supervisor.reload("puppet"))
        await until(lambda: host.state() == "draining")
        asked = host.start(host.ask())
        await host.control.signal("go")
        assert await within(stream) == [0, 1]
        await within(reloaded)
        response = await within(asked)
        assert (response["new"], response["generation"]) == (True, 2)
        assert host.supervisor.status("puppet").version == "2.0"


async def test_a_crash_ends_a_drain_and_its_dispatch(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("go")
        asked = host.start(error_of(host.ask("puppet", "script", steps=["wait:go", "exit:5"])))
        await until(lambda: host.state() == "active")
        unloaded = host.start(host.supervisor.unload("puppet"))
        await until(lambda: host.state() == "draining")
        await host.control.signal("go")
        error = await within(asked)
        assert isinstance(error, HandlerCrashed)
        assert "exit code 5" in error.message
        receipt = await within(unloaded)
        assert (receipt.drained, receipt.killed) == (0, 1)


async def test_a_load_and_an_unload_compute_no_percentiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's action reads a state and checks a name: it needs no status, which sorts all latencies twice."""
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        await host.ask()

        def sorts(*_: Any) -> None:
            raise AssertionError("percentiles of a status that nobody reads")

        monkeypatch.setattr(LatencyWindow, "quantile", sorts)
        host.supervisor.require_handler("puppet")
        with pytest.raises(UnknownHandler, match="'puppett'"):
            host.supervisor.require_handler("puppett")
        receipt = await within(host.supervisor.unload("puppet"))
        assert (receipt.was, receipt.generation) == ("idle", 1)
        assert (await within(host.supervisor.load("puppet"))).generation == 2
        assert (await within(host.supervisor.reload("puppet"))).was == "idle"
        monkeypatch.undo()
