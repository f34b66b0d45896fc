"""Workers that connect over TCP, started by an engine in a driver: a real engine whose machines are this one."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handler_host.plugin.errors import ActivationFailed, ConfigError, HandlerCrashed, MemoryBudget, OutOfResources
from handler_host.workers.launchers.remote import RemoteLauncher
from tests.support import (
    WORKERS,
    SupervisorHarness,
    ended,
    error_of,
    install_plugin,
    install_puppet,
    supervisor_harness,
    until,
    within,
)

MB = 1024**2


@asynccontextmanager
async def remote_host(
    root: Path,
    places: Mapping[str, Mapping[str, Any]],
    *,
    options: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    handlers: Mapping[str, Mapping[str, Any]] | None = None,
    memory: Mapping[str, Any] | None = None,
) -> AsyncIterator[SupervisorHarness]:
    """Run a supervisor whose handlers run on ``places``."""
    install_puppet(root)
    engine = root / "engine"
    engine.mkdir(exist_ok=True)
    source = (WORKERS / "engine.py").read_text()
    install_plugin(engine, "local_engine", source, attribute="LocalEngine", group="handler_host.launchers.v1")
    keys = {"listen": "127.0.0.1:0", "headroom": 0, "places": places, "directory": str(root), **(options or {})}
    async with supervisor_harness(
        root,
        policy={"isolation": "local_engine", "memory_estimate": 50 * MB, "learn_memory": False, **(policy or {})},
        handlers=handlers,
        workers={"heartbeat_interval": 0.2, "hang_after": 1.0},
        memory={"wait": 0.5, "sample_interval": 0.1, **(memory or {})},
        environ={**os.environ, "PYTHONPATH": str(engine), "LOCAL_ENGINE_TOKEN": "x"},
        launchers={"local_engine": keys},
    ) as host:
        yield host


def worker_pid(root: Path, name: str = "puppet") -> int:
    return int((root / f"{name}.pid").read_text())


def driver_pid(root: Path, name: str = "puppet") -> int:
    return int((root / f"{name}.driver").read_text())


Places = Mapping[str, Mapping[str, Any]]
ONE_PLACE: Places = {"north": {"limit": 100 * MB}}


@pytest.mark.parametrize("tls", [True, False])
async def test_a_dispatch_and_a_stream_run_on_another_machine(tmp_path: Path, tls: bool) -> None:
    async with remote_host(tmp_path, ONE_PLACE, options={"tls": tls}) as host:
        assert (await host.ask(text="hello"))["text"] == "hello"
        chunks = [chunk async for chunk in host.chunks(steps=["", "", ""])]
        assert len(chunks) == 3
        status = host.supervisor.status("puppet")
        assert (status.place, status.pid) == ("north", None)
        pid = worker_pid(tmp_path)
        receipt = await within(host.supervisor.unload("puppet"))
        assert ended(pid), "the unload is answered when the worker is gone"
        assert receipt.generation == 1
        exit = host.supervisor.status("puppet").last_exit
        assert exit is not None
        assert (exit.kind, exit.code) == ("operator", 0)


async def test_a_remote_worker_counts_on_its_place_only(tmp_path: Path) -> None:
    async with remote_host(tmp_path, ONE_PLACE) as host:
        local = host.supervisor.budget.ledger
        before = local.reserved
        await host.ask(text="x")
        assert local.reserved == before
        memory = await reported_memory(host)
        assert memory > 5 * MB
        budget = host.supervisor.places["local_engine"]
        assert budget.size_of("puppet", 1) >= memory
        await within(host.supervisor.unload("puppet"))
        assert budget.size_of("puppet", 1) == 0


async def reported_memory(host: SupervisorHarness) -> int:
    """Return the memory that the worker has reported with a heartbeat."""
    async with asyncio.timeout(10):
        while True:
            await host.supervisor.memory()
            if (pss := host.supervisor.status("puppet").pss) is not None:
                return pss
            await asyncio.sleep(0.05)


async def test_a_remote_worker_has_no_variable_of_the_engine(tmp_path: Path) -> None:
    async with remote_host(tmp_path, ONE_PLACE) as host:
        seen = await host.ask("puppet", "environment")
        assert "LOCAL_ENGINE_TOKEN" not in seen["environ"]


async def test_a_killed_worker_is_reported_and_replaced(tmp_path: Path) -> None:
    async with remote_host(tmp_path, ONE_PLACE) as host:
        await host.ask(text="x")
        os.kill(worker_pid(tmp_path), signal.SIGKILL)
        await until(lambda: host.state() == "cold")
        exit = host.supervisor.status("puppet").last_exit
        assert exit is not None
        assert (exit.kind, exit.signal) == ("killed", signal.SIGKILL)
        assert (await host.ask(text="again"))["text"] == "again"


async def test_silent_hosts_end_workers_and_silent_places_are_lost(tmp_path: Path) -> None:
    """A cut network: neither side hears of the other, and the engine confirms nothing."""
    async with remote_host(tmp_path, ONE_PLACE) as host:
        await host.ask(text="x")
        pid = worker_pid(tmp_path)
        (tmp_path / "mute").touch()
        call = host.start(host.ask("puppet", "script", steps=["forever"]))
        await until(lambda: host.supervisor.status("puppet").in_flight == 1)
        os.kill(pid, signal.SIGSTOP)
        error = await within(error_of(call), 5)
        assert isinstance(error, HandlerCrashed)
        assert "heartbeat timeout" in error.message
        assert "on north" in error.message
        os.kill(pid, signal.SIGCONT)
        await until(lambda: ended(pid))
        await until(lambda: host.supervisor.status("puppet").last_exit is not None)
        exit = host.supervisor.status("puppet").last_exit
        assert exit is not None
        assert exit.kind == "lost"


async def test_a_driver_that_ends_is_replaced(tmp_path: Path) -> None:
    async with remote_host(tmp_path, ONE_PLACE) as host:
        await host.ask(text="x")
        pid, driver = worker_pid(tmp_path), driver_pid(tmp_path)
        os.kill(driver, signal.SIGKILL)
        await until(lambda: ended(pid))
        await until(lambda: host.state() == "cold")
        assert (await host.ask(text="again"))["text"] == "again"
        assert driver_pid(tmp_path) != driver


async def test_an_engine_that_is_gone_says_why_and_comes_back(tmp_path: Path) -> None:
    async with remote_host(tmp_path, ONE_PLACE) as host:
        await host.ask(text="x")
        (tmp_path / "gone").touch()
        await until(lambda: host.state() == "cold")
        error = await error_of(host.ask(text="y"))
        assert isinstance(error, OutOfResources)
        assert "the cluster is gone" in error.message
        assert error.retry_after
        (tmp_path / "gone").unlink()
        assert (await host.ask(text="back"))["text"] == "back"


async def test_an_unconfirmed_launch_leaves_no_connection(tmp_path: Path) -> None:
    """The worker runs and has connected, but the engine does not say so in time."""
    async with remote_host(tmp_path, ONE_PLACE, options={"start_timeout": 3.0}) as host:
        await host.ask(text="x")
        await within(host.supervisor.unload("puppet"))
        before = connections()
        (tmp_path / "stuck").touch()
        error = await error_of(host.ask(text="y"))
        assert isinstance(error, OutOfResources)
        assert "has not started a worker within 3 s" in error.message
        await until(lambda: ended(worker_pid(tmp_path)))
        await until((tmp_path / "cancelled").exists)
        assert connections() == before
        (tmp_path / "stuck").unlink()
        assert (await host.ask(text="back"))["text"] == "back"


def connections() -> int:
    """Return how many sockets this process has open."""
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum(os.readlink(link).startswith("socket:") for link in links if link.is_symlink())


async def test_a_long_line_of_output_does_not_end_the_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is longer than a frame of the channel may be."""
    caplog.set_level(logging.INFO)
    async with remote_host(tmp_path, ONE_PLACE) as host:
        await host.ask("puppet", "print", text="short")
        await host.ask("puppet", "print", text="x" * (MB + 100_000))
        await until(lambda: "xxx" in caplog.text)
        assert (await host.ask(text="still"))["text"] == "still"
        assert host.supervisor.status("puppet").generation == 1
        assert "short by print" in caplog.text
        assert max(len(record.getMessage()) for record in caplog.records) < 100_000


async def test_an_idle_worker_leaves_its_place_for_another_handler(tmp_path: Path) -> None:
    install_puppet(tmp_path, "second")
    install_puppet(tmp_path, "third")
    places: Places = {"north": {"limit": 60 * MB}, "south": {"limit": 60 * MB}}
    async with remote_host(tmp_path, places) as host:
        assert (await host.ask("puppet", text="1"))["text"] == "1"
        assert (await host.ask("second", text="2"))["text"] == "2"
        assert {host.supervisor.status(name).place for name in ("puppet", "second")} == {"north", "south"}
        assert (await host.ask("third", text="3"))["text"] == "3"
        assert host.state("puppet") == "cold", "the least recently used one"


async def test_without_room_a_dispatch_waits_and_a_new_machine_takes_it(tmp_path: Path) -> None:
    install_puppet(tmp_path, "second")
    async with remote_host(tmp_path, {"north": {"limit": 60 * MB}}, memory={"wait": 5.0}) as host:
        busy = host.start(host.ask("puppet", "script", steps=["forever"]))
        await until(lambda: host.supervisor.status("puppet").in_flight == 1)
        waiting = host.start(host.ask("second", text="2"))
        await until(lambda: host.state("second") == "waiting")
        (tmp_path / "place-south").write_text(str(60 * MB))
        assert (await within(waiting, 10))["text"] == "2"
        assert host.supervisor.status("second").place == "south"
        busy.cancel()


async def test_no_room_says_when_to_retry(tmp_path: Path) -> None:
    install_puppet(tmp_path, "second")
    async with remote_host(tmp_path, {"north": {"limit": 60 * MB}}) as host:
        busy = host.start(host.ask("puppet", "script", steps=["forever"]))
        await until(lambda: host.supervisor.status("puppet").in_flight == 1)
        error = await error_of(host.ask("second", text="2"))
        assert isinstance(error, MemoryBudget)
        assert error.retryable
        assert error.retry_after
        assert "no place for second" in error.message
        busy.cancel()


async def test_a_handler_that_fits_nowhere_is_refused_for_good(tmp_path: Path) -> None:
    places: Places = {
        "north": {"limit": 10 * MB},
        "south": {"limit": 500 * MB, "resources": {"GPU": 1.0}},
        "liar": {"limit": -1},
    }
    async with remote_host(tmp_path, places, policy={"resources": {"GPU": 2.0}}) as host:
        error = await error_of(host.ask(text="x"))
        assert isinstance(error, MemoryBudget)
        assert not error.retryable
        assert "2 GPU" in error.message
        assert "none of the 2 machines" in error.message


async def test_a_resource_chooses_the_place(tmp_path: Path) -> None:
    places: Places = {"north": {"limit": 500 * MB}, "south": {"limit": 100 * MB, "resources": {"GPU": 1.0}}}
    async with remote_host(
        tmp_path, places, options={"strategy": "spread"}, policy={"resources": {"GPU": 1.0}}
    ) as host:
        await host.ask(text="x")
        assert host.supervisor.status("puppet").place == "south"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refuse": True}, "option 'refuse' is set; delete it"),
        ({"python": "/nonexistent/python"}, "/nonexistent/python"),
    ],
)
async def test_a_mistake_of_the_configuration_is_one_message(
    tmp_path: Path, options: Mapping[str, Any], message: str
) -> None:
    async with remote_host(tmp_path, ONE_PLACE, options=options) as host:
        error = await error_of(host.ask(text="x"))
        assert isinstance(error, ActivationFailed | OutOfResources)
        assert message in error.message


async def test_a_driver_without_a_listener_stops_when_it_is_idle(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        address = f"127.0.0.1:{occupied.getsockname()[1]}"
        async with remote_host(tmp_path, ONE_PLACE, options={"listen": address}) as host:
            error = await error_of(host.ask(text="x"))
            assert isinstance(error, ConfigError)
            assert "correct the setting 'listen'" in error.message
            launcher = host.supervisor._launch_specs._remote["local_engine"]
            assert len(launcher.pids) == 1
            assert launcher._idle_timer is not None, "it stops the driver"


async def test_a_stranger_gets_nothing_from_the_listener(tmp_path: Path) -> None:
    async with remote_host(tmp_path, ONE_PLACE) as host:
        await host.ask(text="x")
        launcher = host.supervisor._launch_specs._remote["local_engine"]
        assert isinstance(launcher, RemoteLauncher)
        assert launcher.port is not None
        port = launcher.port
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.write(b"x" * 32)
        assert await within(reader.read(), 5) == b""
        writer.close()
        plain, plain_writer = await asyncio.open_connection("127.0.0.1", port)
        plain_writer.write(b"x" * 32)
        with suppress(ConnectionResetError):
            assert await within(plain.read(), 6) == b""
        plain_writer.close()
        assert (await host.ask(text="still"))["text"] == "still"


def test_doctor_connects_to_the_engine_and_names_what_is_wrong(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    source = (WORKERS / "engine.py").read_text()
    install_plugin(engine, "local_engine", source, attribute="LocalEngine", group="handler_host.launchers.v1")
    config = f"""
[catalog]
include_sys_path = false
[launchers.local_engine]
directory = "{tmp_path}"
places = {{ north = {{ limit = 1000 }} }}
[launchers.missing_one]
"""
    (tmp_path / "host.toml").write_text(config)
    environment = {**os.environ, "PYTHONPATH": str(engine), "HANDLER_HOST_DATA_DIR": str(tmp_path / "data")}

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "handler_host", *words, "--json", "--config", str(tmp_path / "host.toml")]
        return subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)

    result = run("doctor")
    findings = {
        (finding["place"], finding["level"]): finding["text"] for finding in json.loads(result.stdout)["findings"]
    }
    assert findings["launchers.local_engine", "ok"] == "1 places"
    assert "install handler-host-missing-one there" in findings["launchers.missing_one", "problem"]
    assert result.returncode == 1
    only = run("local_engine", "doctor")
    (finding,) = json.loads(only.stdout)["findings"]
    assert (only.returncode, finding["place"], finding["text"]) == (0, "launchers.local_engine", "1 places")
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')  # without any installed package
    bare.chmod(0o755)
    (tmp_path / "host.toml").write_text(config.replace("directory =", f'python = "{bare}"\ndirectory ='))
    (finding,) = json.loads(run("doctor", "local_engine").stdout)["findings"]
    assert finding["text"].endswith(
        "; install handler-host and the launcher there, or correct launchers.local_engine.python"
    )
    hanging = config.replace("places", 'unreachable = true\nstart_timeout = "20s"\nplaces')
    (tmp_path / "host.toml").write_text(hanging)
    (finding,) = json.loads(run("doctor", "local_engine").stdout)["findings"]
    assert finding["text"] == "the cluster hangs; start it again", "not the time limit of the driver"
    unknown = run("doctor", "local_engin")
    assert unknown.returncode == 2
    assert b"no launcher 'local_engin' is configured; did you mean 'local_engine'?" in unknown.stdout + unknown.stderr


async def test_a_launcher_that_a_reload_adds_needs_a_restart(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with supervisor_harness(tmp_path) as host:
        config = host.supervisor.config
        policy = msgspec.structs.replace(config.defaults, isolation="new_engine")
        await host.supervisor.reconfigure(msgspec.structs.replace(config, defaults=policy))
        error = await error_of(host.ask())
        assert "[launchers.new_engine] is new since the host's start; restart the host" in error.message
