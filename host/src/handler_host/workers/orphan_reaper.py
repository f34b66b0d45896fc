"""Reap orphans that this process inherits as PID 1 of a container."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from handler_host.workers.child_processes import child_states, has_zombie

INTERVAL = 2.0
"""Seconds between two checks, and so the time in which the owner of a child must reap it."""


async def reap_orphans() -> None:
    """Reap exited children that nothing else in this process waits for, until cancelled.

    The parent of a child (a launcher, a library with a subprocess) reaps it within milliseconds; a child that
    is still a zombie at the next check was inherited.
    """
    seen: set[int] = set()
    while True:
        states = child_states() if has_zombie() else {}
        zombies = {pid for pid, state in states.items() if state == b"Z"}
        for pid in seen & zombies:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
        seen = zombies - seen
        await asyncio.sleep(INTERVAL)
