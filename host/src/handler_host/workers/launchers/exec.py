"""Launcher that starts each worker in an interpreter of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

from handler_host.plugin.errors import ActivationFailed
from handler_host.workers.launchers.base import (
    SHORTAGES,
    Exit,
    WorkerPipes,
    WorkerProcess,
    out_of_resources,
    reap,
    wait_for_exit,
)


class _ExecWorker:
    """A worker in an interpreter of its own, a child of the host."""

    def __init__(self, process: subprocess.Popen[bytes], ends: WorkerPipes) -> None:
        self.pid = process.pid
        self.socket = ends.channel
        self.output = ends.output
        self._process = process
        self._exit: asyncio.Future[Exit] = asyncio.ensure_future(self._watch())

    def kill(self, number: int) -> None:
        """Send a signal to its process group; without effect once it is reaped."""
        if not self._exit.done():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def wait(self) -> Exit:
        """Return when it is reaped and its process group is killed."""
        return await asyncio.shield(self._exit)

    async def _watch(self) -> Exit:
        await wait_for_exit(self.pid)
        exit = reap(self.pid)
        self._process.returncode = exit.code if exit.code is not None else -(exit.signal or 0)
        return exit


class ExecLauncher:
    """Starts each worker in a fresh interpreter: ``python``, or the host's own.

    That interpreter's environment needs ``handler-host`` (plugins depend on it), of
    the same version of the protocol.
    """

    def __init__(self, python: str | None = None) -> None:
        self._python = python or sys.executable

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Return a worker that was exec'ed; raises ``OutOfResources``."""
        ends = WorkerPipes.make()
        channel = ends.worker_channel.fileno()
        command = [self._python, "-P", "-m", "handler_host.workers.runtime.process", str(channel), str(os.getpid())]
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - about a millisecond, and its parent has to be this thread
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=ends.worker_output,
                stderr=ends.worker_output,
                pass_fds=(channel,),
                process_group=0,
            )
        except OSError as error:
            ends.close_ours()
            if error.errno in SHORTAGES:
                raise out_of_resources("a process for a worker", error) from error
            raise ActivationFailed(
                f"the interpreter {self._python!r} cannot be started: {error.strerror}; see 'python' of the handler"
            ) from error
        finally:
            ends.close_workers()
        return _ExecWorker(process, ends)

    async def close(self) -> None:
        """Do nothing: there is nothing beside the workers."""
