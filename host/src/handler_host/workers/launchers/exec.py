"""Launcher that starts each worker in a fresh interpreter."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping

from handler_host.plugin.errors import PermanentActivationFailure
from handler_host.workers.child_processes import signal_worker
from handler_host.workers.resource_errors import RESOURCE_ERRNOS, out_of_resources
from handler_host.workers.worker_process import (
    ExitStatus,
    ProcessPipes,
    WorkerProcess,
    reap,
    wait_for_exit,
)


class _ExecWorker:
    """A worker in a fresh interpreter, a child of the host."""

    place = None

    def __init__(self, process: subprocess.Popen[bytes], pipes: ProcessPipes) -> None:
        self.pid = process.pid
        self.connection = pipes.channel
        self.output = pipes.output
        self._process = process
        self._exit: asyncio.Future[ExitStatus] = asyncio.ensure_future(self._wait_and_reap())

    def kill(self, number: int) -> None:
        """Send signal ``number`` to its process group; has no effect after it is reaped."""
        if not self._exit.done():
            signal_worker(self.pid, number)

    async def wait(self) -> ExitStatus:
        """Wait until it is reaped and its process group is killed."""
        return await asyncio.shield(self._exit)

    async def _wait_and_reap(self) -> ExitStatus:
        await wait_for_exit(self.pid)
        return reap(self._process)


class ExecLauncher:
    """Launcher that starts each worker in a fresh interpreter: ``python``, or the host's own.

    The interpreter's environment needs ``handler-host`` (plugins depend on it) with the same version of
    the protocol.
    """

    def __init__(self, python: str | None = None) -> None:
        self._python = python or sys.executable

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Start a worker; raises ``OutOfResources``, or ``PermanentActivationFailure`` for a wrong interpreter."""
        pipes = ProcessPipes.open()
        channel = str(pipes.child_channel.fileno())
        command = [self._python, "-P", "-m", "handler_host.workers.runtime.process", channel, str(os.getpid())]
        try:
            process = pipes.start(command, environment)  # takes about 1 ms
        except OSError as error:
            if error.errno in RESOURCE_ERRNOS:
                raise out_of_resources("a process for a worker", error) from error
            raise PermanentActivationFailure(
                f"the interpreter {self._python!r} cannot be started: {error.strerror}; "
                "correct the setting 'python' of the handler"
            ) from error
        return _ExecWorker(process, pipes)

    async def close(self) -> None:
        """Do nothing: this launcher has no process besides the workers."""
