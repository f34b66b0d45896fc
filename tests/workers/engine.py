"""An engine without a cluster: its places are names, and its workers are child processes of the driver."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handler_host.workers.remote.engine import EngineError, ExitStatus, Finding, PlaceReport, WorkerRequest
from handler_host.workers.remote.node import NodeWorker


class LocalWorker:
    """A child process; with ``mute`` its end is never reported, as after a cut of the network."""

    def __init__(self, worker: NodeWorker, mute: Path) -> None:
        self._worker = worker
        self._mute = mute

    async def wait(self) -> ExitStatus:
        """Wait for its exit."""
        status = await self._worker.wait()
        if self._mute.exists():
            await asyncio.Event().wait()
        return status

    async def kill(self) -> None:
        """Kill it."""
        if not self._mute.exists():
            self._worker.kill()


class LocalEngine:
    """Options: ``places``, tables by name as in a ``PlaceReport``; ``directory``, where tests leave files.

    A file ``place-NAME`` in the directory adds a place of so many bytes. Other files are faults: ``mute``, ``gone``,
    and ``stuck``: a launch does not end, although its worker runs; it leaves ``cancelled`` when it is cancelled.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._directory = Path(options["directory"])
        self._places = dict(options["places"])
        if options.get("refuse"):
            raise EngineError("option 'refuse' is set; delete it", is_final=True)
        self._unreachable = options.get("unreachable", False)
        self._workers: list[NodeWorker] = []

    async def start(self) -> str:
        """Return the loopback address; with the option ``unreachable``, give up while a thread still tries."""
        if self._unreachable:
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
            raise EngineError("the cluster hangs; start it again")
        return "127.0.0.1"

    async def places(self) -> Sequence[PlaceReport]:
        """Return the places of the options, or of the file."""
        if (self._directory / "gone").exists():
            raise EngineError("the cluster is gone")
        for file in self._directory.glob("place-*"):
            self._places[file.name.removeprefix("place-")] = {"limit": int(file.read_text())}
        return [PlaceReport(name, **keys) for name, keys in self._places.items()]

    async def launch(self, request: WorkerRequest) -> LocalWorker:
        """Start a child process."""
        worker = NodeWorker(request.connection)
        self._workers.append(worker)
        (self._directory / f"{request.handler}.pid").write_text(str(worker.pid))
        (self._directory / f"{request.handler}.driver").write_text(str(os.getpid()))
        try:
            if (self._directory / "stuck").exists():
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            (self._directory / "cancelled").touch()
            worker.kill()
            raise
        return LocalWorker(worker, self._directory / "mute")

    async def examine(self) -> Sequence[Finding]:
        """Return one finding."""
        return [Finding(True, f"{len(self._places)} places")]

    async def close(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            worker.kill()
