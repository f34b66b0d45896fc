"""Hostile plugins: what a worker can do to the host, to other workers, and with its own descendants."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from pathlib import Path

import pytest

from tests.integration.http.serving import Host, running
from tests.support import ended, install_plugin, install_puppet, until

HOSTILE = '''
import ctypes, os, signal, subprocess, sys, time
from typing import Any
from handler_host.plugin import operation

def outcome(action):
    try:
        return repr(action())[:50]
    except OSError as error:
        return type(error).__name__

class Hostile:
    @operation
    async def look(self, request: dict[str, Any]) -> dict[str, Any]:
        libc = ctypes.CDLL(None, use_errno=True)
        def ptrace(pid):
            if libc.ptrace(16, pid, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "ptrace")
        def take(pid):
            if libc.syscall(438, os.pidfd_open(pid), 0, 0) < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
        return {str(pid): {
            "environ": outcome(lambda: open(f"/proc/{pid}/environ").read()),
            "mem": outcome(lambda: open(f"/proc/{pid}/mem", "rb").close()),
            "ptrace": outcome(lambda: ptrace(pid)),
            "descriptor": outcome(lambda: take(pid)),
            "signal": outcome(lambda: os.kill(pid, 0)),
        } for pid in request["pids"]}

    @operation
    async def daemons(self, request: dict[str, Any]) -> list[int]:
        code = "import time; time.sleep(300)"
        pids = [subprocess.Popen([sys.executable, "-c", code], start_new_session=True).pid]
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.setsid()
            if (grandchild := os.fork()) == 0:
                time.sleep(300)
                os._exit(0)
            os.write(write, str(grandchild).encode())
            os._exit(0)
        os.waitpid(child, 0)
        return [*pids, int(os.read(read, 20))]

    @operation
    async def leave(self, request: dict[str, Any]) -> int:
        """Join the process group of a child, and ignore SIGTERM."""
        if (child := os.fork()) == 0:
            os.setpgid(0, 0)
            time.sleep(300)
            os._exit(0)
        time.sleep(0.1)
        os.setpgid(0, child)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(300)
'''


def landlock_abi() -> int:
    abi: int = ctypes.CDLL(None).syscall(444, None, 0, 1)
    return abi


@pytest.fixture
def root(tmp_path: Path) -> Path:
    install_puppet(tmp_path)
    install_plugin(tmp_path, "hostile", HOSTILE, attribute="Hostile")
    return tmp_path


async def worker_of(host: Host, name: str) -> int:
    assert (await host.admin("POST", f"/handlers/{name}/load"))[0] == 200
    pid = host.supervisor.status(name).pid
    assert pid is not None
    return pid


@pytest.mark.skipif(landlock_abi() < 6, reason="this kernel cannot restrict signals")
@pytest.mark.parametrize("python", [None, sys.executable], ids=["forked", "own interpreter"])
async def test_a_worker_reaches_no_other_process(root: Path, python: str | None) -> None:
    """Neither memory, environment, descriptors nor signals of the host, the fork server and another worker."""
    policy = {"python": python} if python is not None else {}
    async with running(root, policy=policy) as host:
        other = await worker_of(host, "puppet")
        own = await worker_of(host, "hostile")
        pids = [os.getpid(), other]
        status, outcomes = await host.json("POST", "/v1/handlers/hostile/look", json={"pids": [*pids, own]})
        assert status == 200
        for pid in pids:
            assert set(outcomes[str(pid)].values()) == {"PermissionError"}, outcomes
        assert outcomes[str(own)]["signal"] == "None"


async def test_daemons_of_a_plugin_end_with_its_worker(root: Path) -> None:
    """Also those in a session of their own, and those whose parent has ended."""
    async with running(root) as host:
        other = await worker_of(host, "puppet")
        status, pids = await host.json("POST", "/v1/handlers/hostile/daemons", json={})
        assert status == 200
        assert not any(map(ended, pids))
        assert (await host.admin("POST", "/handlers/hostile/unload"))[0] == 200
        await until(lambda: all(map(ended, pids)))
        assert host.supervisor.status("puppet").pid == other
        assert not ended(other)


async def test_a_worker_that_leaves_its_process_group_is_killed(root: Path) -> None:
    """By its own process ID; other workers are left alone."""
    async with running(root, policy={"stop_grace": 0.5, "drain_timeout": 0.5}) as host:
        other = await worker_of(host, "puppet")
        own = await worker_of(host, "hostile")
        dispatch = asyncio.ensure_future(host.json("POST", "/v1/handlers/hostile/leave", data="{}"))
        await until(lambda: os.getpgid(own) != own)
        assert (await host.admin("POST", "/handlers/hostile/unload?mode=force"))[0] == 200
        await until(lambda: ended(own))
        assert (await dispatch)[0] >= 500
        assert not ended(other)
