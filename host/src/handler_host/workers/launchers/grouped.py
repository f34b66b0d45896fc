"""Launcher that moves each worker of another launcher to a control group of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from handler_host.config import MemoryConfig
from handler_host.memory.cgroups import read_limit
from handler_host.workers.control_groups import ControlGroups
from handler_host.workers.launchers.base import Launcher
from handler_host.workers.worker_process import ExitStatus, WorkerProcess

log = logging.getLogger(__name__)


class _GroupedWorker:
    """A worker of this machine in a control group of its own."""

    place = None

    def __init__(self, process: WorkerProcess, groups: ControlGroups, group: Path) -> None:
        self.pid = process.pid
        self.connection = process.connection
        self.output = process.output
        self.kill = process.kill
        self._process = process
        self._exit: asyncio.Future[ExitStatus] = asyncio.ensure_future(self._wait_and_remove(groups, group))

    async def wait(self) -> ExitStatus:
        """Wait until it is reaped and all processes of its group have ended."""
        return await asyncio.shield(self._exit)

    async def _wait_and_remove(self, groups: ControlGroups, group: Path) -> ExitStatus:
        exit = await self._process.wait()
        try:
            kills = await asyncio.to_thread(groups.remove, group)
        except OSError as error:
            log.warning("the control group of an ended worker cannot be removed: %s", error)
            return exit
        return msgspec.structs.replace(exit, killed_for_memory=kills > 0)


class GroupedLauncher:
    """Launcher that moves each worker of ``launcher`` to a control group, limited to ``limit`` bytes.

    ``memory`` has the limit of all workers together. A worker that cannot be moved stays where it is.
    """

    def __init__(self, launcher: Launcher, groups: ControlGroups, memory: MemoryConfig, limit: int | None) -> None:
        self._launcher = launcher
        self._groups = groups
        self._memory = memory
        self._limit = limit

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Launch a worker and move it; raises the error of the launcher."""
        process = await self._launcher.launch(handler, generation, environment)
        assert process.pid is not None, "a process of this machine"
        adding = asyncio.ensure_future(asyncio.to_thread(self._add, process.pid))
        try:
            group = await asyncio.shield(adding)
        except asyncio.CancelledError:
            process.kill(signal.SIGKILL)
            process.connection.close()
            os.close(process.output)
            with suppress(OSError):  # the process ended before it could be moved
                # The thread continues after a cancellation, and its group belongs to no worker.
                await _GroupedWorker(process, self._groups, await adding).wait()
            raise
        except OSError as error:
            log.warning("the worker of %s gets no control group: %s", handler, error)
            return process
        return _GroupedWorker(process, self._groups, group)

    def _add(self, pid: int) -> Path:
        return self._groups.add(pid, read_limit(self._memory).usable, self._limit)

    async def close(self) -> None:
        """Do nothing: the other launcher has the processes."""
