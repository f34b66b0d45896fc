"""Measures the host and all its processes, off the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from host.config import MemoryConfig
from host.memory import Memory, MemoryLimit, read_limit, read_memory


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
        self._reading = asyncio.Lock()

    async def read(self, fork_servers: Sequence[int], workers: Mapping[tuple[str, int], int]) -> Reading:
        """Measure the host, the fork servers and the workers, given by process number."""
        async with self._reading:
            return await asyncio.to_thread(_read, fork_servers, workers)


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
