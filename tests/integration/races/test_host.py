"""Race cases 34 to 39 and 45: the host itself, its fork server, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

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


async def test_case_34_shutdown_lets_a_stream_end_aborts_an_activation_and_refuses_new_work(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    control = f"{tmp_path}/control"
    handlers = {"other": {"control": control, "at_activation": "tell:begun block"}}
    async with supervisor_harness(tmp_path, handlers=handlers) as host:
        host.control.make("go", "begun")
        numbers: list[int] = []

        async def read() -> None:
            async for chunk in host.chunks(steps=["", "wait:go"]):
                numbers.append(chunk["number"])

        stream = host.begin(read())
        activating = host.begin(error_of(host.ask("other")))
        await host.control.heard("begun")
        await until(lambda: bool(numbers))
        closing = host.begin(host.supervisor.close())
        assert isinstance(await within(activating), Draining)
        assert isinstance(await error_of(host.ask()), Draining)
        assert host.supervisor.draining
        await host.control.say("go")
        await within(stream)
        assert numbers == [0, 1]
        await within(closing)


async def test_case_34_the_deadline_ends_what_does_not_end_by_itself(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, server={"drain_timeout": 0.1}) as host:
        asked = host.begin(error_of(host.ask("puppet", "script", steps=["forever"])))
        await until(lambda: host.state() == "active")
        await within(host.supervisor.close())
        assert isinstance(await within(asked), Draining)


async def test_case_35_a_killed_fork_server_is_noticed_and_replaced_and_no_dispatch_hangs(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        host.control.make("child")
        await host.ask()
        pid = host.pid()
        script = host.begin(error_of(host.ask("puppet", "script", steps=["children", "forever"])))
        child = int(await host.control.heard("child"))
        (server,) = (await host.supervisor.memory()).fork_server_pids
        os.kill(server, signal.SIGKILL)
        error = await within(script)
        assert isinstance(error, HandlerCrashed)
        assert "fork server" in error.message
        await until(lambda: gone(pid) and gone(server) and gone(child))
        assert (await host.ask())["generation"] == 2


async def test_case_35_an_activation_that_loses_its_fork_server_is_no_fault_of_the_handler(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    handlers = {"puppet": {"control": f"{tmp_path}/control", "at_activation": "tell:begun wait:go"}}
    async with supervisor_harness(tmp_path, handlers=handlers) as host:
        host.control.make("begun", "go")
        asked = host.begin(error_of(host.ask()))
        await host.control.heard("begun")
        (server,) = (await host.supervisor.memory()).fork_server_pids
        os.kill(server, signal.SIGKILL)
        error = await within(asked)
        assert isinstance(error, OutOfResources)
        assert error.retry_after is not None
        # It is not paused: the next one is activated at once.
        again = host.begin(host.ask(number=1))
        await host.control.heard("begun")
        await host.control.say("go")
        assert (await within(again))["number"] == 1


async def test_case_36_many_cycles_leave_no_descriptor_thread_or_process(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:

        async def cycle() -> None:
            await host.ask()
            await host.supervisor.unload("puppet")

        # Threads are made at the first cycles: of the tests' own pool, and the one that measures.
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

        # The thread that measures has a file open at times: what counts is what is held without it.
        before = held()
        for _ in range(10):
            await host.supervisor.memory()
            before = {name: min(number, before[name]) for name, number in held().items()}
        for _ in range(100):
            await within(cycle())
        # What is on its way out goes; a leak stays.
        with suppress(TimeoutError):
            await until(lambda: all(number <= before[name] for name, number in held().items()))
        assert {name: number for name, number in held().items() if number > before[name]} == {}, before
        assert host.supervisor.status("puppet").generation == 110


async def test_case_37_generation_and_state_never_run_backwards_for_who_reads_the_list_all_the_time(
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
                # Not at each turn of the loop: that would keep the threads that read memory waiting for seconds.
                await asyncio.sleep(0.0005)

        watching = host.begin(watch())
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


async def test_case_39_at_the_limit_of_descriptors_an_activation_is_refused_clearly_and_works_again_after(
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


async def test_case_39_at_the_fork_servers_own_limit_a_fork_is_refused_and_its_workers_go_on(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path) as host:
        pid = (await host.ask("other"))["pid"]
        (server,) = (await host.supervisor.memory()).fork_server_pids
        limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
        # No number is left for what it is sent with the request.
        resource.prlimit(server, resource.RLIMIT_NOFILE, (1, limits[1]))
        error = await error_of(host.ask())
        assert isinstance(error, OutOfResources)
        assert "ulimit -n" in error.message
        assert (await host.ask("other"))["pid"] == pid
        resource.prlimit(server, resource.RLIMIT_NOFILE, limits)
        assert (await host.ask())["generation"] == 2


PIDS = Path("/sys/fs/cgroup/pids")


@pytest.fixture
def few_processes() -> Iterator[Path]:
    """A control group in which no process can be started: root is not held by ``ulimit -u``."""
    group = PIDS / f"handler-host-test-{secrets.token_hex(4)}"
    try:
        group.mkdir()
        (group / "pids.max").write_text("1")
    except OSError as error:
        pytest.skip(f"no control group v1 of process numbers can be made here: {error}")
    yield group
    group.rmdir()


async def test_case_39_at_the_limit_of_processes_an_activation_is_refused_clearly_and_works_again_after(
    tmp_path: Path, few_processes: Path
) -> None:
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
        # The system is to blame, not the handler: it is not paused.
        assert host.state() == "cold"
        (few_processes / "pids.max").write_text("max")
        assert (await host.ask(number=2))["number"] == 2
    await until(lambda: not (few_processes / "cgroup.procs").read_text().strip())


async def test_case_45_a_running_worker_goes_on_after_its_distribution_was_removed_until_it_is_unloaded(
    tmp_path: Path,
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        await host.ask()
        for file in (tmp_path / "puppet-1.0.dist-info").iterdir():
            file.unlink()
        report = await host.supervisor.rescan()
        assert report.removed == ["puppet"]
        assert (await host.ask())["generation"] == 1
        status = host.supervisor.status("puppet")
        assert status.reason is not None
        assert "removed" in status.reason
        await host.supervisor.unload("puppet")
        assert isinstance(await error_of(host.ask()), UnknownHandler)
        assert host.supervisor.statuses() == []


async def test_case_45_a_load_that_meets_the_removal_leaves_no_worker_that_nobody_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        read = MemorySampler.read

        async def removed_meanwhile(*arguments: Any) -> Reading:
            monkeypatch.undo()
            for file in (tmp_path / "puppet-1.0.dist-info").iterdir():
                file.unlink()
            await host.supervisor.rescan()
            return await read(*arguments)

        monkeypatch.setattr(MemorySampler, "read", removed_meanwhile)
        assert isinstance(await error_of(host.supervisor.load("puppet")), UnknownHandler)
        assert (await host.supervisor.memory()).fork_server_pids == []


async def test_case_45_a_newly_installed_and_an_upgraded_distribution_are_there_after_a_rescan(tmp_path: Path) -> None:
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


async def test_the_fork_server_goes_when_it_is_of_no_use_and_comes_back(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path, workers={"linger": 0.05}) as host:
        await host.ask()
        (server,) = (await host.supervisor.memory()).fork_server_pids
        await host.supervisor.unload("puppet")
        await until(lambda: gone(server))
        memory = await host.supervisor.memory()
        assert memory.fork_server is None
        assert (await host.ask())["generation"] == 2


async def test_without_lingering_each_worker_may_get_a_fork_server_of_its_own(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path, workers={"linger": 0.0}) as host:
        for generation in range(1, 6):
            unloaded = host.begin(host.supervisor.unload("other"))
            assert (await host.ask())["generation"] == generation
            await within(unloaded)
            assert (await host.ask("other"))["generation"] == generation
            await within(host.supervisor.unload("puppet"))


async def test_case_35_a_fork_server_that_dies_during_a_fork_is_told_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install_puppet(tmp_path)
    install_puppet(tmp_path, "other")
    async with supervisor_harness(tmp_path) as host:
        await host.ask("other")
        (server,) = (await host.supervisor.memory()).fork_server_pids
        os.kill(server, signal.SIGSTOP)
        waiting = [host.begin(error_of(host.ask())) for _ in range(3)]
        await until(lambda: host.state() == "activating")
        leaving = host.begin(host.ask("other", "script", steps=["forever"]))
        await asyncio.sleep(0)
        os.kill(server, signal.SIGKILL)
        errors = await within(asyncio.gather(*waiting))
        assert {type(error) for error in errors} == {OutOfResources}
        assert {error.status for error in errors} == {503}
        assert isinstance(await error_of(leaving), HandlerCrashed)
        # Nobody is to blame: it is tried again at once.
        assert (await host.ask())["generation"] == 2
        gc.collect()
    assert "never retrieved" not in caplog.text
