"""The actor that runs one worker: it starts the worker's process on its node, and reports how that exits."""

from __future__ import annotations

from typing import Any

import ray

from handler_host.workers.remote.node import NodeWorker
from handler_host_ray.machine import machine_memory


class _NodeActor:
    """Runs one worker. The worker's process ends with this actor, however that ends."""

    def __init__(self) -> None:
        self._worker: NodeWorker | None = None

    async def start(self, connection: bytes) -> int:
        """Start the worker; return the bytes of memory of this machine."""
        self._worker = NodeWorker(connection)
        return machine_memory()

    async def wait(self) -> tuple[int | None, int | None, int | None]:
        """Return code, signal and peak of resident memory of the worker, when it has exited."""
        assert self._worker is not None, "started"
        status = await self._worker.wait()
        return status.code, status.signal, status.maxrss

    async def kill(self) -> None:
        """Kill the worker and its process group."""
        if self._worker is not None:
            self._worker.kill()


NodeActor: Any = ray.remote(_NodeActor)
