"""Daemons of a plugin: the worker reaps those that it adopted, and leaves its own children to the plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import children_of, ended, install_plugin, supervisor_harness, until

WORKERS = {"heartbeat_interval": 0.02}
PARENT = '''
import os, subprocess
from typing import Any
from handler_host.plugin import operation

class Handler:
    @operation
    async def daemonize(self, request: dict[str, Any]) -> int:
        """Start a daemon by two forks, as daemons do; return the worker's process ID."""
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.waitpid(child, 0)
        return os.getpid()

    @operation
    async def start(self, request: dict[str, Any]) -> int:
        """Start a child that exits with status 3; return its process ID."""
        self.child = subprocess.Popen(["sh", "-c", "exit 3"], start_new_session=request["in_session"])
        return self.child.pid

    @operation
    async def wait(self, request: dict[str, Any]) -> int:
        """Return the exit status of the child."""
        return self.child.wait()
'''


@pytest.mark.parametrize("isolation", ["process", "exec"])
async def test_daemons_that_have_ended_are_reaped(tmp_path: Path, isolation: str) -> None:
    install_plugin(tmp_path, "parent", PARENT)
    async with supervisor_harness(tmp_path, workers=WORKERS, policy={"isolation": isolation}) as host:
        for _ in range(3):
            worker = await host.ask("parent", "daemonize")
        await until(lambda: not children_of(worker))


@pytest.mark.parametrize("in_session", [False, True])
async def test_exit_status_of_a_child_is_left_to_the_plugin(tmp_path: Path, in_session: bool) -> None:
    install_plugin(tmp_path, "parent", PARENT)
    async with supervisor_harness(tmp_path, workers=WORKERS) as host:
        child = await host.ask("parent", "start", in_session=in_session)
        await until(lambda: ended(child))
        # A daemon that ends later is reaped, so the worker has looked at both.
        worker = await host.ask("parent", "daemonize")
        await until(lambda: children_of(worker) == [child])
        assert await host.ask("parent", "wait") == 3
