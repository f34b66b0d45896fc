"""The memory that the machine of a node really has: Ray believes any number that its node was started with."""

from __future__ import annotations

from handler_host._internal.units import format_size
from handler_host.config import MemoryConfig
from handler_host.memory.cgroups import read_limit


def machine_memory() -> int:
    """Return the bytes of memory of this machine, or of its control group if that has less."""
    return read_limit(MemoryConfig()).bytes


def oversized(reported: int, real: int) -> str:
    """Return the message about a node that reports more memory than its machine has, in bytes."""
    return (
        f"it reports {format_size(reported)} of memory, but its machine has {format_size(real)}, and the host counts "
        f"no more; start the node again with at most --memory={real}"
    )
