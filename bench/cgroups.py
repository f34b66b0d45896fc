"""Control groups with a hard memory limit, on machines where this user may create one (mostly root)."""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MOUNTS = {"v1": Path("/sys/fs/cgroup/memory"), "v2": Path("/sys/fs/cgroup")}
FILES = {
    "v1": ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control", ("total_rss", "total_shmem")),
    "v2": ("memory.max", "memory.peak", "memory.events", ("anon", "shmem", "kernel_stack", "pagetables", "sock")),
}
"""For each version: files of the limit, the peak and the kills, and the unreclaimable fields of ``memory.stat``."""


class Group:
    """A control group; ``prefix`` is a command that runs another one inside it."""

    def __init__(self, version: str, path: Path) -> None:
        self.version = version
        self.path = path
        self.prefix = ["sh", "-c", f'echo $$ > {path}/cgroup.procs && exec "$@"', "sh"]
        self._peak, self._events, self._unreclaimable = FILES[version][1:]

    def kills(self) -> int:
        """Return how many of its processes the kernel killed for memory."""
        return self._numbers(self._events).get("oom_kill", 0)

    def peak(self) -> int:
        """Return the most bytes ever charged, cached files included; 0 if the kernel does not report it."""
        try:
            return int((self.path / self._peak).read_text())
        except (OSError, ValueError):
            return 0

    def unreclaimable(self) -> int:
        """Return the bytes that the kernel cannot reclaim now: all but cached files."""
        numbers = self._numbers("memory.stat")
        return sum(numbers.get(name, 0) for name in self._unreclaimable)

    def _numbers(self, name: str) -> dict[str, int]:
        lines = (line.split() for line in (self.path / name).read_text().splitlines())
        return {line[0]: int(line[1]) for line in lines if len(line) == 2}


@contextlib.contextmanager
def limited(size: int) -> Iterator[Group | None]:
    """Yield a group with a hard limit of ``size`` bytes, without swap; None if this user may not create one."""
    group = _make(size)
    try:
        yield group
    finally:
        if group is not None:
            _remove(group.path)


def _make(size: int) -> Group | None:
    for version, mount in MOUNTS.items():
        path = mount / f"handler-host-bench-{secrets.token_hex(4)}"
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            (path / FILES[version][0]).write_text(str(size))
        except OSError:
            path.rmdir()
            continue
        for swap, value in (("memory.swap.max", "0"), ("memory.memsw.limit_in_bytes", str(size))):
            with contextlib.suppress(OSError):
                if (path / swap).exists():
                    (path / swap).write_text(value)
        return Group(version, path)
    return None


def _remove(path: Path) -> None:
    """Remove the group once its last process has ended."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            path.rmdir()
            return
        time.sleep(0.05)
    print(f"{path}: processes are still in this group; remove it when they have ended", file=sys.stderr)
