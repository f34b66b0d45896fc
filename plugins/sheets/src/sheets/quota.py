"""Google's quota, kept from this side: calls in the last minute, and how long to wait after a refusal."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from typing import Literal

WINDOW = 60.0
"""Seconds; quotas are per minute."""

Kind = Literal["read", "write"]


class Quota:
    """Counts the calls of the last minute, and lets nobody make more than the limits."""

    def __init__(self, reads: int, writes: int) -> None:
        self.limits: dict[Kind, int] = {"read": reads, "write": writes}
        self.calls: dict[Kind, int] = {"read": 0, "write": 0}
        """All calls of this worker."""
        self._times: dict[Kind, deque[float]] = {"read": deque(), "write": deque()}

    def used(self, kind: Kind) -> int:
        """Return the calls of the last minute."""
        times, now = self._times[kind], time.monotonic()
        while times and times[0] <= now - WINDOW:
            times.popleft()
        return len(times)

    async def take(self, kind: Kind) -> None:
        """Return when one more call may be made, and count it."""
        while self.used(kind) >= self.limits[kind]:  # noqa: ASYNC110 - it is time that is waited for
            await asyncio.sleep(max(0.0, self._times[kind][0] + WINDOW - time.monotonic()))
        self._times[kind].append(time.monotonic())
        self.calls[kind] += 1


def backoff(failures: int, first: float, longest: float) -> float:
    """Return the seconds to wait after so many failures in a row (from 1).

    Truncated exponential with jitter, as Google asks for: ``min(2^n + random, longest)``,
    in units of ``first``.
    """
    wait: float = first * (2 ** min(failures - 1, 30) + random.random())
    return min(wait, longest)
