"""Google's quota, counted on this side: calls of the last minute, and the backoff after failures."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import deque
from typing import Literal

from sheets.store import Store

WINDOW = 61.0
"""Seconds; quotas are per minute, and a call may arrive up to a second later than it was sent."""

Kind = Literal["read", "write"]


class Quota:
    """Limits of calls per minute.

    Each call is recorded in the file before it is sent, so that the next worker counts it, too.
    """

    def __init__(self, reads: int, writes: int, store: Store) -> None:
        self.limits: dict[Kind, int] = {"read": reads, "write": writes}
        self.calls: dict[Kind, int] = {"read": 0, "write": 0}
        """All calls of this worker."""
        self._times: dict[Kind, deque[float]] = {"read": deque(), "write": deque()}
        self._store = store

    async def open(self) -> None:
        """Load the calls of an earlier worker."""
        rows = await self._store.run(lambda connection: connection.execute("SELECT kind, at FROM calls").fetchall())
        now, wall = time.monotonic(), time.time()
        # If the clock was set back, a call counts for a minute from now at most.
        for at, kind in sorted((now - max(0.0, wall - at), kind) for kind, at in rows):
            self._times[kind].append(at)

    def used(self, kind: Kind) -> int:
        """Return the calls of the last minute."""
        times, now = self._times[kind], time.monotonic()
        while times and times[0] <= now - WINDOW:
            times.popleft()
        return len(times)

    async def take(self, kind: Kind) -> None:
        """Wait until one more call is allowed, and count it."""
        while self.used(kind) >= self.limits[kind]:  # noqa: ASYNC110 - waits for a time, not for an event
            await asyncio.sleep(max(0.0, self._times[kind][0] + WINDOW - time.monotonic()))
        self._times[kind].append(time.monotonic())
        self.calls[kind] += 1
        wall = time.time()

        def note(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM calls WHERE at NOT BETWEEN ? AND ?", (wall - WINDOW, wall))
            connection.execute("INSERT INTO calls (kind, at) VALUES (?, ?)", (kind, wall))

        await self._store.run(note)

    def note_end(self, kind: Kind) -> None:
        """Move the time of the last call to now: it reached Google at some time before."""
        times = self._times[kind]
        if times:
            times.pop()
        times.append(time.monotonic())


def backoff(failures: int, first: float, longest: float) -> float:
    """Return the seconds to wait after ``failures`` consecutive failures (from 1).

    Truncated exponential with jitter, as Google asks for: ``min(2^n + random, longest)``,
    in units of ``first``.
    """
    wait: float = first * (2 ** min(failures - 1, 30) + random.random())
    return min(wait, longest)
