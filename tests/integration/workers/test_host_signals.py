"""Signals that reach every process of a container: only the host acts on them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import pytest

from tests.integration.http.serving import events
from tests.integration.http.test_server import ready
from tests.support import children_of, ended, install_plugin, install_puppet, supervisor_harness, until, within

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
STOPS = {signal.SIGTERM, signal.SIGINT}
ISOLATION = ["process", "exec"]


def descendants(pid: int) -> list[int]:
    """Return the processes below ``pid``, children after their own children."""
    found: list[int] = []
    for child in children_of(pid):
        found += [*descendants(child), child]
    return found


def send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        os.kill(pid, number)


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
async def test_stream_survives_a_signal_to_all_processes(tmp_path: Path, number: int, isolation: str) -> None:
    """Heroku, and `docker stop` with some inits, send SIGTERM to every process; `systemctl kill` any signal."""
    install_puppet(tmp_path)
    environment = {"HANDLER_HOST_DEFAULTS__ISOLATION": isolation}
    async with ready(tmp_path, environment=environment) as host, aiohttp.ClientSession() as session:
        host.control.make("more")
        body = {"steps": ["", "wait:more"]}
        sse = {"Accept": "text/event-stream"}
        async with session.post(f"{host.url}/v1/handlers/puppet/stream", json=body, headers=sse) as stream:
            await within(stream.content.readuntil(b"\n\n"))
            processes = [*descendants(host.process.pid), host.process.pid]
            assert len(processes) == (3 if isolation == "process" else 2)
            send(number, processes)
            await asyncio.sleep(0.3)
            assert not any(map(ended, processes))
            await host.control.signal("more")
            assert events(await within(stream.text())) == [("message", {"number": 1}), ("end", {})]
        if number not in STOPS:
            host.process.send_signal(signal.SIGTERM)
        await host.output()
        assert host.process.returncode == 0
        await until(lambda: all(map(ended, processes)))


class TestWithoutTheHost:
    """The signal reaches fork server and worker, but not the host."""

    async def test_activation_continues(self, tmp_path: Path) -> None:
        install_puppet(tmp_path)
        handlers = {"puppet": {"control": f"{tmp_path}/control", "at_activation": "tell:started wait:go"}}
        async with supervisor_harness(tmp_path, handlers=handlers) as host:
            host.control.make("started", "go")
            response = host.start(host.ask())
            await host.control.wait_for("started")
            (server,) = (await host.supervisor.memory()).fork_server_pids
            processes = [*descendants(server), server]
            for number in SIGNALS:
                send(number, processes)
            await asyncio.sleep(0.3)
            assert not any(map(ended, processes))
            await host.control.signal("go")
            assert (await within(response))["generation"] == 1

    @pytest.mark.parametrize("isolation", ISOLATION)
    async def test_start_of_the_processes_continues(self, tmp_path: Path, isolation: str) -> None:
        """From its first moment on: an interpreter takes a while before it can handle signals."""
        install_puppet(tmp_path)
        before = set(descendants(os.getpid()))
        async with supervisor_harness(tmp_path, policy={"isolation": isolation}) as host:
            response = host.start(host.ask())
            while not response.done():
                send(signal.SIGTERM, set(descendants(os.getpid())) - before)
                await asyncio.sleep(0.002)
            assert response.result()["generation"] == 1


CHILDREN = """
import os, signal, subprocess
from handler_host.plugin import operation

class Handler:
    @operation
    async def program(self) -> int:
        child = subprocess.Popen(["sleep", "60"])
        child.terminate()
        return child.wait(10)

    @operation
    async def fork(self) -> int:
        ready, started = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(started, b"x")
            signal.pause()
            os._exit(7)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
"""


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("operation", ["program", "fork"])
async def test_children_of_a_plugin_end_by_sigterm(tmp_path: Path, operation: str, isolation: str) -> None:
    """They must not inherit that their worker ignores it."""
    install_plugin(tmp_path, "parent", CHILDREN)
    async with supervisor_harness(tmp_path, policy={"isolation": isolation}) as host:
        assert await within(host.ask("parent", operation)) == -signal.SIGTERM
        assert await within(host.ask("parent", operation)) == -signal.SIGTERM
