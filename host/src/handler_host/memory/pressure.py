"""Reads what the kernel tells of a shortage of memory: waits for it, kills for it, what a control group holds.

All functions are synchronous and take parts of a millisecond; the event loop runs
them in a thread.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from handler_host.memory.procfs import MemoryLimit, control_groups

_EVENTS = {"cgroup v2": "memory.events", "cgroup v1": "memory.oom_control"}
_UNRECLAIMABLE = {
    "cgroup v2": ("anon", "shmem", "kernel_stack", "pagetables", "percpu", "sock", "slab_unreclaimable"),
    "cgroup v1": ("total_rss", "total_shmem"),
}
"""Of ``memory.stat``: what the kernel cannot drop when memory is short, as it can cached files."""


class KernelView(msgspec.Struct, frozen=True):
    """What the kernel tells at one moment. The counters only grow; None is what it does not tell here."""

    stalled: float | None = None
    """Seconds in which some task waited for memory (``some`` of PSI, pressure stall information)."""
    stalled_source: str | None = None
    kills: int | None = None
    """Processes that were killed for memory."""
    kills_source: str | None = None
    held: int | None = None
    """Bytes that the limiting control group cannot give back: its processes', and the kernel's for them."""


def read_kernel_view(limit: MemoryLimit, root: Path = Path("/")) -> KernelView:
    """Return what the kernel tells of this process's control group, and of that which ``limit`` was read from."""
    stalled, stalled_source = None, None
    kills, kills_source = None, None
    for source, places in control_groups(root):
        own = places[0]
        if source == "cgroup v2" and stalled is None:
            stalled, stalled_source = _stalled(own / "memory.pressure"), str(own / "memory.pressure")
        if kills is None:
            kills, kills_source = _number(own / _EVENTS[source], "oom_kill"), str(own / _EVENTS[source])
    if stalled is None:
        stalled, stalled_source = _stalled(root / "proc/pressure/memory"), str(root / "proc/pressure/memory")
    if kills is None:
        # Of the machine, with all its containers: better than nothing.
        kills, kills_source = _number(root / "proc/vmstat", "oom_kill"), str(root / "proc/vmstat")
    return KernelView(
        stalled,
        stalled_source if stalled is not None else None,
        kills,
        kills_source if kills is not None else None,
        _held(limit),
    )


def _held(limit: MemoryLimit) -> int | None:
    names = _UNRECLAIMABLE.get(limit.source)
    if names is None or limit.path is None:
        return None
    numbers = _numbers(Path(limit.path).parent / "memory.stat")
    return sum(numbers.get(name, 0) for name in names) if numbers else None


def _stalled(path: Path) -> float | None:
    """Return the seconds of a pressure file: ``some avg10=0.00 … total=MICROSECONDS``."""
    for line in _lines(path):
        kind, _, rest = line.partition(" ")
        total = rest.rpartition("total=")[2]
        if kind == "some" and total.isdecimal():
            return int(total) / 1e6
    return None


def _number(path: Path, name: str) -> int | None:
    return _numbers(path).get(name)


def _numbers(path: Path) -> dict[str, int]:
    """Return the numbers of a file of lines ``name number``."""
    pairs = (line.split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
