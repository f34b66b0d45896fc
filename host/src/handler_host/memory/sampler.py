"""Measures the host and all its processes, and what the kernel tells of their memory, off the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from handler_host.config import MemoryConfig
from handler_host.memory.pressure import KernelView, read_kernel_view
from handler_host.memory.procfs import Memory, MemoryLimit, read_limit, read_memory

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Reading(msgspec.Struct, frozen=True):
    """One measurement: bytes of PSS (see ``measure``) of the host, the fork server, and each worker."""

    host: int
    fork_server: int | None
    workers: Mapping[tuple[str, int], Memory]
    """By handler and generation; who ended meanwhile is missing."""
    measure: str
    limit: MemoryLimit
    """As it was read this time: an operator may change it at any moment."""
    kernel: KernelView
    others: int
    """Bytes that others hold in the limiting control group, beside these processes; the kernel for them, too."""
    at: float
    """On the monotonic clock."""
    cost: float
    """Seconds of processor time that it took."""

    @property
    def total(self) -> int:
        """Bytes of all processes together."""
        return self.host + (self.fork_server or 0) + sum(memory.pss for memory in self.workers.values())


class MemorySampler:
    """Reads the memory of processes, one reading at a time; readers that ask meanwhile wait their turn."""

    def __init__(self, config: MemoryConfig) -> None:
        self._config = config
        self.limit: MemoryLimit = read_limit(config)
        """As it was read last."""
        self._last = Reading(
            0, None, {}, "pss", limit=self.limit, kernel=KernelView(), others=0, at=time.monotonic(), cost=0.0
        )
        # One thread of its own, for readings one after the other: the loop's default pool would grow to many.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="meter")

    async def read(self, fork_servers: Sequence[int], workers: Mapping[tuple[str, int], int]) -> Reading:
        """Measure the host, the fork servers and the workers, given by process number.

        Where the system refuses (no descriptor is left), what was last measured has to do: unloads,
        which give descriptors back, must not fail for want of a figure.
        """
        try:
            self._last = await self.run(lambda: _read(self._config, fork_servers, workers))
        except OSError as error:
            log.warning("memory cannot be measured: %s", error)
            known = {key: memory for key, memory in self._last.workers.items() if key in workers}
            return msgspec.structs.replace(self._last, workers=known)
        self.limit = self._last.limit
        return self._last

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns, run after the readings that were asked for before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def reconfigure(self, config: MemoryConfig) -> None:
        """Read the limit of this configuration from now on."""
        self._config = config

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)


def _read(config: MemoryConfig, fork_servers: Sequence[int], workers: Mapping[tuple[str, int], int]) -> Reading:
    begun = time.thread_time()
    host = read_memory(os.getpid())
    parents = [memory for memory in map(read_memory, fork_servers) if memory is not None]
    children = {key: read_memory(pid) for key, pid in workers.items()}
    found = {key: memory for key, memory in children.items() if memory is not None}
    limit = read_limit(config)
    kernel = read_kernel_view(limit)
    own = sum(memory.anonymous for memory in (host, *parents, *found.values()) if memory is not None)
    return Reading(
        host=host.pss if host is not None else 0,
        fork_server=sum(memory.pss for memory in parents) if parents else None,
        workers=found,
        measure=host.measure if host is not None else "pss",
        limit=limit,
        kernel=kernel,
        # Older kernels do not tell what of a process is anonymous: then nobody knows what is others'.
        others=max(0, kernel.held - own) if kernel.held is not None and own else 0,
        at=time.monotonic(),
        cost=time.thread_time() - begun,
    )
