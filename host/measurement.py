"""Measures the host and all its processes, off the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from host.config import MemoryConfig
from host.memory import Memory, MemoryLimit, read_limit, read_memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """One measurement: bytes of PSS (see ``measure``) of the host, the fork server, and each worker."""

    host: int
    fork_server: int | None
    workers: Mapping[tuple[str, int], Memory]
    """By handler and generation; who ended meanwhile is missing."""
    measure: str

    @property
    def total(self) -> int:
        """Bytes of all of them together."""
        return self.host + (self.fork_server or 0) + sum(memory.pss for memory in self.workers.values())


class Meter:
    """Reads the memory of processes, one reading at a time; readers that ask meanwhile wait their turn."""

    def __init__(self, config: MemoryConfig) -> None:
        self._config = config
        self.limit: MemoryLimit = read_limit(config)
        # One thread of its own, for readings one after the other: the loop's default pool would grow to many.
        self._last = Reading(0, None, {}, "pss")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="meter")

    async def read(self, fork_servers: Sequence[int], workers: Mapping[tuple[str, int], int]) -> Reading:
        """Measure the host, the fork servers and the workers, given by process number.

        Where the system refuses (no descriptor is left), what was last measured has to do: unloads,
        which give descriptors back, must not fail for want of a figure.
        """
        loop = asyncio.get_running_loop()
        try:
            self._last = await loop.run_in_executor(self._thread, _read, fork_servers, workers)
        except OSError as error:
            log.warning("memory cannot be measured: %s", error)
            known = {key: memory for key, memory in self._last.workers.items() if key in workers}
            return replace(self._last, workers=known)
        return self._last

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)


def _read(fork_servers: Sequence[int], workers: Mapping[tuple[str, int], int]) -> Reading:
    host = read_memory(os.getpid())
    parents = [memory.pss for memory in map(read_memory, fork_servers) if memory is not None]
    children = {key: read_memory(pid) for key, pid in workers.items()}
    return Reading(
        host=host.pss if host is not None else 0,
        fork_server=sum(parents) if parents else None,
        workers={key: memory for key, memory in children.items() if memory is not None},
        measure=host.measure if host is not None else "pss",
    )
