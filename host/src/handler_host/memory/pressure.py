"""Memory pressure as the kernel reports it: stalls, kills, and the bytes that a control group cannot give back.

Reading is synchronous and takes parts of a millisecond; the event loop runs it in a thread.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

import msgspec

from handler_host.memory.cgroups import MemoryLimit, control_groups
from handler_host.memory.procfs import read_lines

SHORTEST_INTERVAL_S = 0.2
"""Stalls are compared over at least so many seconds: a shorter interval says nothing."""
KILL_AGE_S = 10.0
"""Seconds for which a kill that the kernel has counted can explain the end of a worker."""

_EVENTS = {"cgroup v2": "memory.events", "cgroup v1": "memory.oom_control"}
_UNRECLAIMABLE = {
    "cgroup v2": ("anon", "shmem", "kernel_stack", "pagetables", "percpu", "sock", "slab_unreclaimable"),
    "cgroup v1": ("total_rss", "total_shmem"),
}
"""Of ``memory.stat``: memory that the kernel cannot drop when it is short, as it can cached files."""


class KernelView(msgspec.Struct, frozen=True):
    """Counters of the kernel at one moment. They only grow; None where the kernel does not report one."""

    stalled: float | None = None
    """Seconds in which some task waited for memory (``some`` of PSI, pressure stall information)."""
    stalled_source: str | None = None
    kills: int | None = None
    """Processes that were killed for memory."""
    kills_source: str | None = None
    held: int | None = None
    """Bytes that the limiting control group cannot give back: its processes', and the kernel's for them."""


class PressureTracker:
    """Share of the time in which tasks waited for memory; ``threshold`` None never reports pressure."""

    def __init__(self, threshold: float | None) -> None:
        self.share = 0.0
        self.threshold = threshold
        self._last: tuple[float, float] | None = None

    @property
    def is_high(self) -> bool:
        """Whether the share has reached the threshold."""
        return self.threshold is not None and self.share >= self.threshold

    def update(self, stalled: float | None, now: float) -> None:
        """Compare the kernel's counter ``stalled``, in seconds, with that of the last call."""
        if stalled is None:
            return
        if self._last is not None:
            before, then = self._last
            if now - then < SHORTEST_INTERVAL_S:
                return
            self.share = max(0.0, stalled - before) / (now - then)
        self._last = (stalled, now)


class OomKillCounter:
    """The kernel's count of kills for memory; each kill explains the end of one process."""

    def __init__(self) -> None:
        self.count: int | None = None
        self._unexplained: deque[float] = deque(maxlen=1000)

    def update(self, count: int | None, now: float) -> int:
        """Record the kernel's counter; return by how much it has grown."""
        if count is None:
            return 0
        growth = count - self.count if self.count is not None else 0
        # Two readings may come in the wrong order: the counter itself never falls.
        self.count = max(count, self.count or 0)
        self._unexplained.extend([now] * max(0, growth))
        return max(0, growth)

    def explain(self, now: float) -> bool:
        """Return whether a kill of the kernel explains a process that an unknown sender has just killed."""
        while self._unexplained and now - self._unexplained[0] > KILL_AGE_S:
            self._unexplained.popleft()
        if not self._unexplained:
            return False
        self._unexplained.popleft()
        return True


def read_kernel_view(limit: MemoryLimit, root: Path = Path("/")) -> KernelView:
    """Return the counters of this process's control group, and of the one that ``limit`` was read from."""
    stalled, stalled_source = None, None
    kills, kills_source = None, None
    for source, directories in control_groups(root):
        own = directories[0]
        if source == "cgroup v2" and stalled is None:
            stalled, stalled_source = _stalled(own / "memory.pressure"), str(own / "memory.pressure")
        if kills is None:
            kills, kills_source = read_kills(source, own), str(own / _EVENTS[source])
    if stalled is None:
        stalled, stalled_source = _stalled(root / "proc/pressure/memory"), str(root / "proc/pressure/memory")
    if kills is None:
        # Counts the whole machine, with all its containers: better than nothing.
        kills, kills_source = _number(root / "proc/vmstat", "oom_kill"), str(root / "proc/vmstat")
    return KernelView(
        stalled,
        stalled_source if stalled is not None else None,
        kills,
        kills_source if kills is not None else None,
        _held(limit),
    )


def read_kills(source: str, group: Path) -> int | None:
    """Return how many processes of a control group the kernel has killed for memory; v2 counts groups below it, too."""
    return _number(group / _EVENTS[source], "oom_kill")


def _held(limit: MemoryLimit) -> int | None:
    names = _UNRECLAIMABLE.get(limit.source)
    if names is None or limit.path is None:
        return None
    numbers = _numbers(Path(limit.path).parent / "memory.stat")
    return sum(numbers.get(name, 0) for name in names) if numbers else None


def _stalled(path: Path) -> float | None:
    """Return the seconds of a pressure file: ``some avg10=0.00 … total=MICROSECONDS``."""
    for line in read_lines(path):
        kind, _, rest = line.partition(" ")
        total = rest.rpartition("total=")[2]
        if kind == "some" and total.isdecimal():
            return int(total) / 1e6
    return None


def _number(path: Path, name: str) -> int | None:
    return _numbers(path).get(name)


def _numbers(path: Path) -> dict[str, int]:
    """Return the numbers of a file of lines ``name number``."""
    pairs = (line.split() for line in read_lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
