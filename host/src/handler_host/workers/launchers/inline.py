"""Launcher that runs handlers in the host's own process, for debugging."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import socket
from collections.abc import Mapping

from handler_host.workers.resource_errors import out_of_resources
from handler_host.workers.worker_process import ExitStatus, WorkerProcess


class _InlineWorker:
    """A worker that is a task of the host's own event loop."""

    place = None

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        # Imported on demand: a host without inline handlers needs no memory for the worker's code.
        from handler_host.workers.runtime.process import serve

        mimetypes.init()  # plugins may ask for media types, which the host itself did not read

        self.pid = os.getpid()
        self.connection = ours
        self.output = -1
        self._task = asyncio.create_task(serve(theirs, inline=True), name="inline worker")

    def kill(self, number: int) -> None:
        """Cancel the task, whatever the signal; a plugin that blocks the event loop cannot be killed."""
        self._task.cancel()

    async def wait(self) -> ExitStatus:
        """Wait until the task has ended."""
        await asyncio.wait({self._task})
        if self._task.cancelled():
            return ExitStatus(code=1)
        return ExitStatus(code=1 if self._task.exception() is not None else self._task.result())


class InlineLauncher:
    """Launcher that runs handlers in the host's own process, for debugging; unloading gives no memory back."""

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Start a worker as a task; raises ``OutOfResources``."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise out_of_resources("a socket for a worker", error) from error
        ours.setblocking(False)
        theirs.setblocking(False)
        return _InlineWorker(ours, theirs)

    async def close(self) -> None:
        """Do nothing: this launcher has no process besides the workers."""
