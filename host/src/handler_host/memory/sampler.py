"""Measures the host and all its processes, and the kernel's memory counters, off the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from handler_host.config import MemoryConfig
from handler_host.memory.cgroups import MemoryLimit, read_limit
from handler_host.memory.ledger import Key
from handler_host.memory.pressure import KernelView, read_kernel_view
from handler_host.memory.procfs import Memory, read_memory, read_tree_memory

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Reading(msgspec.Struct, frozen=True):
    """One measurement: bytes of PSS (see ``measure``) of the host, the fork server, and each worker."""

    host: int
    fork_server: int | None
    workers: Mapping[Key, Memory]
    """By handler and generation, without the workers that exited meanwhile."""
    measure: str
    limit: MemoryLimit
    """Read at the same moment: an operator may change it at any time."""
    kernel: KernelView
    droppable: int
    """Bytes of ``total`` that the kernel can drop and read again: pages of files."""
    external_usage: int
    """Bytes of the limiting control group that processes of others hold, and the kernel for these processes."""
    at: float
    """On the monotonic clock."""
    cost: float
    """Seconds of processor time that it took."""

    @property
    def total(self) -> int:
        """Bytes of all processes together."""
        return self.host + (self.fork_server or 0) + sum(memory.pss for memory in self.workers.values())

    def by_handler(self) -> dict[str, int]:
        """Return the bytes of PSS of each handler's workers together."""
        sizes: dict[str, int] = {}
        for (name, _), memory in self.workers.items():
            sizes[name] = sizes.get(name, 0) + memory.pss
        return sizes


class MemorySampler:
    """Reads the memory of processes, one reading at a time; concurrent calls wait for their turn."""

    def __init__(self, config: MemoryConfig) -> None:
        self._config = config
        self.limit: MemoryLimit = read_limit(config)
        """The limit of the latest reading."""
        self._latest = Reading(
            host=0,
            fork_server=None,
            workers={},
            measure="pss",
            limit=self.limit,
            kernel=KernelView(),
            droppable=0,
            external_usage=0,
            at=time.monotonic(),
            cost=0.0,
        )
        # One thread of its own: readings are sequential, and the loop's default pool would grow to many threads.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memory-sampler")
        self._is_closed = False

    async def read(
        self, fork_servers: Sequence[int], workers: Mapping[Key, int], drivers: Sequence[int] = ()
    ) -> Reading:
        """Measure the host, the fork servers and the workers, given by process ID; ``drivers`` count with the host.

        If the system refuses (no file descriptor is left), the figures of the latest
        reading are returned: an unload, which frees descriptors, must not fail for
        want of a figure. After :meth:`close`, too: an admin request may arrive while the host ends.
        """
        if self._is_closed:
            return self._latest_of(workers)
        try:
            self._latest = await self.run(lambda: _read(self._config, fork_servers, workers, drivers))
        except OSError as error:
            log.warning("memory cannot be measured: %s", error)
            return self._latest_of(workers)
        self.limit = self._latest.limit
        return self._latest

    def _latest_of(self, workers: Container[Key]) -> Reading:
        """Return the latest reading, without workers that have ended since."""
        known = {key: memory for key, memory in self._latest.workers.items() if key in workers}
        return msgspec.structs.replace(self._latest, workers=known)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return the result of ``work``, run after the readings requested before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def reconfigure(self, config: MemoryConfig) -> None:
        """Read the limit of this configuration from now on."""
        self._config = config

    def close(self) -> None:
        """End the thread."""
        self._is_closed = True
        self._thread.shutdown(wait=False)


def _read(
    config: MemoryConfig, fork_servers: Sequence[int], workers: Mapping[Key, int], drivers: Sequence[int]
) -> Reading:
    start = time.thread_time()
    host = read_memory(os.getpid())
    parents = [memory for memory in map(read_memory, fork_servers) if memory is not None]
    helpers = [memory for memory in map(read_memory, drivers) if memory is not None]
    readings = {key: read_tree_memory(pid) for key, pid in workers.items()}
    running = {key: memory for key, memory in readings.items() if memory is not None}
    limit = read_limit(config)
    kernel = read_kernel_view(limit)
    processes = [memory for memory in (host, *parents, *helpers, *running.values()) if memory is not None]
    own = sum(memory.anonymous for memory in processes)
    return Reading(
        host=(host.pss if host is not None else 0) + sum(memory.pss for memory in helpers),
        fork_server=sum(memory.pss for memory in parents) if parents else None,
        workers=running,
        measure=host.measure if host is not None else "pss",
        limit=limit,
        kernel=kernel,
        droppable=sum(memory.droppable for memory in processes),
        # Older kernels do not report how much of a process is anonymous: then the external usage is unknown.
        external_usage=max(0, kernel.held - own) if kernel.held is not None and own else 0,
        at=time.monotonic(),
        cost=time.thread_time() - start,
    )
