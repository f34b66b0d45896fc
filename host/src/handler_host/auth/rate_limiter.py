"""Rate limiter: requests within any minute, and dispatches in flight, of one consumer."""

from __future__ import annotations

import time
from collections import deque

MINUTE_S = 60.0


class _Second:
    """Requests within one second of the clock: the time of the last one, and their number."""

    __slots__ = ("count", "last", "second")

    def __init__(self, second: int) -> None:
        self.second = second
        self.last = 0.0
        self.count = 0


class RateLimiter:
    """Counts of one consumer.

    No minute has more requests than allowed, wherever it starts, and all of them may come at once. The requests of
    one second of the clock are kept as one entry and expire together, a minute after the last of them: 61 entries at
    most, whatever the limit is. A leaky bucket (GCRA) needs one number only, but a burst after a pause and the refill
    during it add up to twice the limit within one minute.
    """

    __slots__ = ("_seconds", "_total", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self._seconds: deque[_Second] = deque()
        self._total = 0

    def count_request(self, limit: int, now: float | None = None) -> float:
        """Count a request and return 0, or return the seconds until it is allowed; it is not counted then."""
        at = time.monotonic() if now is None else now
        seconds = self._seconds
        while seconds and seconds[0].last + MINUTE_S - at <= 0.0:
            self._total -= seconds.popleft().count
        if self._total < limit:
            if not seconds or seconds[-1].second != int(at):
                seconds.append(_Second(int(at)))
            seconds[-1].last = at
            seconds[-1].count += 1
            self._total += 1
            return 0.0
        index, remaining = 0, self._total - seconds[0].count
        while remaining >= limit:  # the limit was lowered: more than one entry must expire
            index += 1
            remaining -= seconds[index].count
        # Two roundings can add up to more than a minute by the last bit.
        return min(seconds[index].last + MINUTE_S - at, MINUTE_S)
