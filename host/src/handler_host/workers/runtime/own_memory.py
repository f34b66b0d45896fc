"""The memory of this process, for the heartbeats of a worker that the host cannot measure."""

from __future__ import annotations

import os

from handler_host.channel.frames import WorkerMemory
from handler_host.memory.procfs import read_memory


def read_own_memory() -> WorkerMemory | None:
    """Return the memory of this process; None if the system does not report it. Takes up to a few milliseconds."""
    memory = read_memory(os.getpid())
    return WorkerMemory(memory.pss, memory.uss, memory.rss, memory.peak) if memory is not None else None
