"""Race cases 34 to 39 and 45: the host itself, its fork server, and leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from handler_host.memory import trim
from handler_host.memory.sampler import MemorySampler, Reading
from handler_host.plugin.errors import Draining, HandlerCrashed, OutOfResources, UnknownHandler
from tests.support import (
    WORKERS,
    children_of,
    error_of,
    gone,
    install_plugin,
    install_puppet,
    supervisor_harness,
    until,
    within,
)


async def test_case_34_a_shutdown_ends_streams_and_activations(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    control = f"{tmp_path}/control"
    handlers = {"other": {"control": control, "at_activation": "tell:started block"}}
    async with supervisor_harness(tmp_path, handlers=handlers) as host:
        host.control.make("go", "started")
        numbers: list[int] = []

        async def read() -> None:
            async for chunk in host.chunks(steps=["", "wait:go"]):
                numbers.append(chunk["number"])

        stream = host.start(read())
        activating = host.start(error_of(host.ask("other")))
        await host.control.wait_for("started")
        await until(lambda: bool(numbers))
        closing = host.start(host.supervisor.close())
        assert isinstance(await within(activating), Draining)
        assert isinstance(await error_of(host.ask()), Draining)
        assert host.supervisor.draining
        await host.control.signal("go")
        await within(stream)
        assert numbers == [0, 1]
        await within(closing)


async def test_case_34_the_deadline_ends_the_rest(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, server={"drain_timeout": 0.1}) as host:
        asked = host.start(error_of(host.ask("puppet", "script", steps=["forever"])))
        await until(lambda: host.state() == "active")
        await within(host.supervisor.close())
        assert isinstance(await within(asked), Draining)


async def test_case_35_a_killed_fork_server_is_replaced(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("child")
        await host.ask()
        pid = host.pid()
        script = host.start(error_of(host.ask("puppet", "script", steps=["children", "forever"])))
        child = int(await host.control.wait_for("child"))
        (server,) = (await host.supervisor.memory()).fork_server_pids
        os.kill(server, signal.SIGKILL)
        error = await within(script)
        assert isinstance(error, HandlerCrashed)
        assert "fork server" in error.message
        await until(lambda: gone(pid) and gone(server) and gone(child))
        assert (await host.ask())["generation"] == 2


async def test_case_35_a_lost_fork_server_causes_no_backoff(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    handlers = {"puppet": {"control": f"{tmp_path}/control", "at_activation": "tell:started wait:go"}}
    async with supervisor_harness(tmp_path, handlers=handlers) as host:
        host.control.make("started", "go")
        asked = host.start(error_of(host.ask()))
        await host.control.wait_for("started")
        (server,) = (await host.supervisor.memory()).fork_server_pids
        os.kill(server, signal.SIGKILL)
        error = await within(asked)
        assert isinstance(error, OutOfResources)
        assert error.retry_after is not None
        # Without a backoff the next dispatch activates at once.
        again = host.start(host.ask(number=1))
        await host.control.wait_for("started")
        await host.control.signal("go")
        assert (await within(again))["number"] == 1


def open_files() -> dict[int, str]:
    """Return what each descriptor of this process refers to."""
    targets = {}
    for name in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is closed, and a sampler's may be.
        with suppress(OSError):
            targets[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return targets


async def test_case_36_cycles_leave_no_descriptor_thread_or_process(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:

        async def cycle() -> None:
            await host.ask()
            await host.supervisor.unload("puppet")

        # The first cycles start threads: the tests' own pool, and the memory sampler.
        for _ in range(10):
            await cycle()
        (server,) = (await host.supervisor.memory()).fork_server_pids

        def held() -> dict[str, int]:
            return {
                "descriptors of the host": len(os.listdir("/proc/self/fd")),
                "descriptors of the fork server": len(os.listdir(f"/proc/{server}/fd")),
                "threads": threading.active_count(),
                "workers": len(children_of(server)),
            }

        # The memory sampler has a file open at times: only descriptors that stay open count.
        before = held()
        for _ in range(10):
            await host.supervisor.memory()
            before = {name: min(number, before[name]) for name, number in held().items()}
        for _ in range(100):
            await within(cycle())
        # A descriptor that is being closed goes; a leak stays.
        with suppress(TimeoutError):
            await until(lambda: all(number <= before[name] for name, number in held().items()))
        more = {name: number for name, number in held().items() if number > before[name]}
        assert more == {}, f"before: {before}; now open: {open_files()}"
        assert host.supervisor.status("puppet").generation == 110


async def test_case_37_a_constant_reader_sees_no_step_back(
    tmp_path: Path,
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        order = {"waiting": 0, "activating": 1, "active": 2, "idle": 2, "draining": 3, "cold": 4}
        seen: list[tuple[int, int]] = []
        done = asyncio.Event()

        async def watch() -> None:
            while not done.is_set():
                (status,) = host.supervisor.statuses()
                seen.append((status.generation, order[status.state]))
                if status.state in ("cold", "waiting"):
                    assert status.pid is None
                # Not in each iteration of the loop: that would block the memory sampler's thread for seconds.
                await asyncio.sleep(0.0005)

        watching = host.start(watch())
        for _ in range(50):
            await host.ask()
            await host.supervisor.unload("puppet")
        done.set()
        await within(watching)
        assert seen == sorted(seen)
        assert seen[-1] == (50, 4)
        assert {1, 2, 3, 4} <= {rank for _, rank in seen}


async def test_case_38_a_jump_of_the_wall_clock_disturbs_no_timer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, policy={"idle_after": 300.0}) as host:
        await host.ask()
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 3600)
        await host.ask()
        status = host.supervisor.status("puppet")
        assert status.state == "idle"
        assert status.expires_in is not None
        assert 290 < status.expires_in <= 300
        assert status.idle_for is not None
        assert status.idle_for < 60


async def test_case_39_an_activation_at_the_descriptor_limit(
    tmp_path: Path,
) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path) as host:
        await host.ask("other")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 4, hard))
            with suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            error = await error_of(host.ask())
            assert isinstance(error, OutOfResources)
            assert error.status == 503
            assert "ulimit -n" in error.message
            assert error.retry_after is not None
            assert (await host.ask("other", number=1))["number"] == 1
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await host.ask())["generation"] == 2


async def test_case_39_a_fork_at_the_fork_servers_limit(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path) as host:
        pid = (await host.ask("other"))["pid"]
        (server,) = (await host.supervisor.memory()).fork_server_pids
        limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
        # No descriptor is left for those sent with the request.
        resource.prlimit(server, resource.RLIMIT_NOFILE, (1, limits[1]))
        error = await error_of(host.ask())
        assert isinstance(error, OutOfResources)
        assert "ulimit -n" in error.message
        assert (await host.ask("other"))["pid"] == pid
        resource.prlimit(server, resource.RLIMIT_NOFILE, limits)
        assert (await host.ask())["generation"] == 2


async def test_case_39_an_activation_at_the_process_limit(tmp_path: Path, few_processes: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path) as host:
        await host.ask("other")
        (server,) = (await host.supervisor.memory()).fork_server_pids
        (few_processes / "cgroup.procs").write_text(str(server))
        error = await error_of(host.ask())
        assert isinstance(error, OutOfResources)
        assert error.status == 503
        assert "ulimit -u" in error.message
        assert error.retry_after is not None
        assert (await host.ask("other", number=1))["number"] == 1
        # The system is the cause, not the handler: it gets no backoff.
        assert host.state() == "cold"
        (few_processes / "pids.max").write_text("max")
        assert (await host.ask(number=2))["number"] == 2
    await until(lambda: not (few_processes / "cgroup.procs").read_text().strip())


def remove_puppet(root: Path) -> None:
    """Remove the metadata of the distribution: a rescan does not find it any more."""
    for file in (root / "puppet-1.0.dist-info").iterdir():
        file.unlink()


async def test_case_45_a_removed_worker_runs_until_its_unload(
    tmp_path: Path,
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        await host.ask()
        remove_puppet(tmp_path)
        report = await host.supervisor.rescan()
        assert report.removed == ["puppet"]
        assert (await host.ask())["generation"] == 1
        status = host.supervisor.status("puppet")
        assert status.reason is not None
        assert "removed" in status.reason
        await host.supervisor.unload("puppet")
        assert isinstance(await error_of(host.ask()), UnknownHandler)
        assert host.supervisor.statuses() == []


async def test_case_45_a_reinstallation_ends_the_removed_worker(tmp_path: Path) -> None:
    """Removed in one rescan and found again in another: what is installed now answers, after the streams have ended."""
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        stream = host.chunks(steps=["", "wait:go", ""])
        host.control.make("go")
        await within(anext(stream))
        remove_puppet(tmp_path)
        assert (await host.supervisor.rescan()).removed == ["puppet"]
        install_puppet(tmp_path)
        assert (await host.supervisor.rescan()).added == ["puppet"]
        assert host.state() == "draining"
        request = host.start(host.ask())
        await host.control.signal("go")
        assert [chunk async for chunk in stream]
        assert (await within(request))["generation"] == 2
        assert host.supervisor.status("puppet").reason is None


async def test_case_45_a_load_during_the_removal_leaves_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        read = MemorySampler.read

        async def removed_meanwhile(*arguments: Any) -> Reading:
            monkeypatch.undo()
            remove_puppet(tmp_path)
            await host.supervisor.rescan()
            return await read(*arguments)

        monkeypatch.setattr(MemorySampler, "read", removed_meanwhile)
        assert isinstance(await error_of(host.supervisor.load("puppet")), UnknownHandler)
        assert (await host.supervisor.memory()).fork_server_pids == []


async def test_case_45_a_rescan_finds_new_and_upgraded_distributions(tmp_path: Path) -> None:
    async with supervisor_harness(tmp_path) as host:
        assert isinstance(await error_of(host.ask()), UnknownHandler)
        install_puppet(tmp_path)
        assert (await host.supervisor.rescan()).added == ["puppet"]
        assert (await host.ask())["generation"] == 1
        source = (WORKERS / "puppet.py").read_text()
        install_plugin(tmp_path, "puppet", source, attribute="Puppet", version="2.0")
        assert (await host.supervisor.rescan()).changed == ["puppet"]
        assert (await host.ask())["generation"] == 1
        await host.supervisor.unload("puppet")
        assert (await host.ask())["generation"] == 2
        assert host.supervisor.status("puppet").version == "2.0"


@pytest.mark.parametrize("isolation", ["process", "exec"])
async def test_the_end_of_the_last_worker_trims_the_heap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    trims: list[None] = []
    monkeypatch.setattr(trim, "trim_heap", lambda: trims.append(None))
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path, policy={"isolation": isolation}) as host:
        await host.ask()
        await host.ask("other")
        await host.supervisor.unload("puppet")
        await asyncio.sleep(2 * trim.REST_S)
        assert trims == []
        await host.supervisor.unload("other")
        await until(lambda: trims == [None])


async def test_an_idle_fork_server_exits_and_is_started_again(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, workers={"linger": 0.05}) as host:
        await host.ask()
        (server,) = (await host.supervisor.memory()).fork_server_pids
        await host.supervisor.unload("puppet")
        await until(lambda: gone(server))
        memory = await host.supervisor.memory()
        assert memory.fork_server is None
        assert (await host.ask())["generation"] == 2


async def test_without_linger_each_worker_may_get_its_own_fork_server(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path, workers={"linger": 0.0}) as host:
        for generation in range(1, 6):
            unloaded = host.start(host.supervisor.unload("other"))
            assert (await host.ask())["generation"] == generation
            await within(unloaded)
            assert (await host.ask("other"))["generation"] == generation
            await within(host.supervisor.unload("puppet"))


async def test_case_35_a_fork_server_that_dies_while_forking(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path) as host:
        await host.ask("other")
        (server,) = (await host.supervisor.memory()).fork_server_pids
        os.kill(server, signal.SIGSTOP)
        waiting = [host.start(error_of(host.ask())) for _ in range(3)]
        await until(lambda: host.state() == "activating")
        leaving = host.start(host.ask("other", "script", steps=["forever"]))
        await asyncio.sleep(0)
        os.kill(server, signal.SIGKILL)
        errors = await within(asyncio.gather(*waiting))
        assert {type(error) for error in errors} == {OutOfResources}
        assert {error.status for error in errors} == {503}
        assert isinstance(await error_of(leaving), HandlerCrashed)
        # Not the handler's failure: the retry is immediate.
        assert (await host.ask())["generation"] == 2
        gc.collect()
    assert "never retrieved" not in caplog.text
