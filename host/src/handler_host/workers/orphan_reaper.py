"""Reap orphans that this process inherits as PID 1 of a container."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

INTERVAL = 2.0
"""Seconds between two checks, and so the time in which the owner of a child must reap it."""


async def reap_orphans() -> None:
    """Reap exited children that nothing else in this process waits for, until cancelled.

    The parent of a child (a launcher, a library with a subprocess) reaps it within milliseconds; a child that
    is still a zombie at the next check was inherited.
    """
    seen: set[int] = set()
    while True:
        zombies = _zombies() if _has_zombie() else set()
        for pid in seen & zombies:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
        seen = zombies - seen
        await asyncio.sleep(INTERVAL)


def _has_zombie() -> bool:
    """Return whether a child has exited and is not reaped; costs one system call."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _zombies() -> set[int]:
    """Return the process IDs of all children that have exited and are not reaped."""
    parent = str(os.getpid())
    zombies: set[int] = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            # The fields after the command, which may contain spaces and brackets: state, parent.
            state, ppid = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
            if state == "Z" and ppid == parent:
                zombies.add(int(name))
    return zombies
