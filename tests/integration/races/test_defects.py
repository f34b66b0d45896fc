"""Internal errors and hanging helpers: waiting callers get an error, and the host keeps working."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from handler_host.channel.channel import Channel
from handler_host.lifecycle.lease import Lease
from handler_host.memory import sampler
from handler_host.memory.procfs import read_memory
from handler_host.plugin.errors import ActivationFailed, ActivationTimeout, ConfigError
from handler_host.workers import worker
from handler_host.workers.forkserver import client
from handler_host.workers.worker import Worker
from tests.support import children_of, error_of, gone, install_puppet, supervisor_harness, until, within


async def test_an_internal_error_of_a_reservation_reaches_all_waiters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={"backoff": 0.01}) as host:

        async def broken(*_: Any) -> None:
            raise RuntimeError("an internal error")

        with monkeypatch.context() as patch:
            patch.setattr(host.supervisor.budget, "reserve", broken)
            errors = await within(asyncio.gather(*(error_of(host.ask()) for _ in range(3))))
        assert {type(error) for error in errors} == {ActivationFailed}
        await within(host.supervisor.load("puppet"))
        assert (await host.ask(number=1))["number"] == 1


async def test_an_unload_ends_if_the_activation_fails_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        planning, go = asyncio.Event(), asyncio.Event()

        async def misfit(*_: Any) -> None:
            planning.set()
            await go.wait()
            raise ConfigError("[handlers.puppet] does not fit")

        with monkeypatch.context() as patch:
            patch.setattr(host.supervisor._launch_specs, "build", misfit)
            asked = host.start(error_of(host.ask()))
            await within(planning.wait())
            unloaded = host.start(host.supervisor.unload("puppet"))
            assert (await within(asked)).code == "handler_unloaded"
            go.set()
            await within(unloaded)
        assert host.state() == "cold"
        assert (await host.ask(number=1))["number"] == 1


async def test_a_failed_action_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        grant = Lease.grant
        failed: list[Lease] = []

        def broken(lease: Lease, worker: Worker) -> None:
            if not failed:
                failed.append(lease)
                raise RuntimeError("an internal error")
            grant(lease, worker)

        monkeypatch.setattr(Lease, "grant", broken)
        first = host.start(host.ask(number=1))
        await asyncio.sleep(0)
        second = host.start(host.ask(number=2))
        assert (await within(second))["number"] == 2
        assert "internal error: Grant of puppet failed" in caplog.text
        first.cancel()
        await asyncio.wait({first})
        assert host.supervisor.status("puppet").in_flight == 0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detect a hung fork server sooner."""
    monkeypatch.setattr(client, "RESPONSE_TIMEOUT", 0.5)
    monkeypatch.setattr(client, "EXIT_TIMEOUT", 0.5)
    monkeypatch.setattr(worker, "LAUNCH_GRACE", 0.2)


@pytest.mark.usefixtures("impatient")
async def test_a_hung_fork_server_fails_an_activation_and_is_replaced(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    handlers = {"other": {"activate_timeout": 0.5}}
    async with supervisor_harness(tmp_path, handlers=handlers, policy={"backoff": 0.01}) as host:
        await host.ask()
        (server,) = (await host.supervisor.memory()).fork_server_pids
        os.kill(server, signal.SIGSTOP)
        error = await error_of(host.ask("other"))
        assert isinstance(error, ActivationTimeout)
        assert "fork server" in error.message
        await until(lambda: gone(server) and host.state() == "cold")
        assert (await host.ask(number=1))["number"] == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("when", ["ready", "launching"])
async def test_an_unload_is_answered_while_the_fork_server_hangs(tmp_path: Path, when: str) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path, policy={"stop_grace": 0.2}) as host:
        await host.ask("other")
        if when == "ready":
            await host.ask()
        (server,) = (await host.supervisor.memory()).fork_server_pids
        os.kill(server, signal.SIGSTOP)
        waiting = [host.start(error_of(host.ask()))] if when == "launching" else []
        if waiting:
            await until(lambda: host.state() == "activating")
        await within(host.supervisor.unload("puppet"))
        for request in waiting:
            assert (await within(request)).code == "handler_unloaded"
        assert host.state() == "cold"
        await until(lambda: gone(server))


@pytest.mark.usefixtures("impatient")
async def test_the_host_stops_while_the_fork_server_hangs(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={"stop_grace": 0.2}) as host:
        await host.ask()
        (server,) = (await host.supervisor.memory()).fork_server_pids
        os.kill(server, signal.SIGSTOP)
        await within(host.supervisor.close())
        assert gone(server)


async def test_a_worker_without_a_channel_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path, policy={"backoff": 0.01}) as host:
        await host.ask("other")
        (server,) = (await host.supervisor.memory()).fork_server_pids
        workers = children_of(server)
        sockets = open_channels()

        async def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError("an internal error")

        for target, name in ((Channel, "open"), (worker, "OutputLogger")):
            with monkeypatch.context() as patch:
                patch.setattr(target, name, broken if name == "open" else raises)
                assert isinstance(await error_of(host.ask()), ActivationFailed)
            assert children_of(server) == workers
            assert open_channels() == sockets
            await within(host.supervisor.load("puppet"))
            await within(host.supervisor.unload("puppet"))
        assert (await host.ask(number=1))["number"] == 1


def raises(*_: Any) -> None:
    raise RuntimeError("an internal error")


def open_channels() -> int:
    """Return the number of sockets and pipes of this process."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{fd}").startswith(("socket:", "pipe:"))
    return found


async def test_every_caller_of_close_waits_until_no_process_is_left(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("go")
        asked = host.start(host.ask("puppet", "script", steps=["wait:go"]))
        await until(lambda: host.state() == "active")
        pid = host.pid()
        first = host.start(host.supervisor.close())
        await until(lambda: host.state() == "draining" or host.supervisor.draining)
        second = host.start(host.supervisor.close())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        assert not second.done()
        await host.control.signal("go")
        await within(asyncio.gather(asked, second))
        assert gone(pid)


async def test_an_unload_works_at_the_descriptor_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, memory={"sample_interval": 0.01}) as host:
        await host.ask()
        read = read_memory
        failed: list[int] = []

        def refused(pid: int) -> None:
            failed.append(pid)
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(sampler, "read_memory", refused)
        await until(lambda: len(failed) >= 3)
        receipt = await within(host.supervisor.unload("puppet"))
        assert receipt.generation == 1
        monkeypatch.setattr(sampler, "read_memory", read)
        await host.ask()
        await until(lambda: host.supervisor.status("puppet").pss is not None)


async def test_a_failing_observer_is_logged_and_affects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        monkeypatch.setattr(host.supervisor.telemetry, "_observer", raises)
        assert (await host.ask(number=1))["number"] == 1
        await until(lambda: "the application's observer failed at 'activated'" in caplog.text)
        monkeypatch.undo()
