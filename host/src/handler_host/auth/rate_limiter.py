"""Rate limiter: requests within any minute, and dispatches in flight, of one consumer."""

from __future__ import annotations

import time
from array import array

MINUTE_S = 60.0


class RateLimiter:
    """Counts of one consumer. The requests are kept as times, so that no minute has more than allowed."""

    __slots__ = ("_next", "_times", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self._times = array("d")
        self._next = 0

    def count_request(self, limit: int, now: float | None = None) -> float:
        """Count a request and return 0, or return the seconds until it is allowed; it is not counted then."""
        at = time.monotonic() if now is None else now
        if len(self._times) > limit:
            # The limit was lowered: the newest ones count.
            ordered = self._times[self._next :] + self._times[: self._next]
            self._times, self._next = ordered[len(ordered) - limit :], 0
        if len(self._times) < limit:
            if self._next:  # the limit was raised: the oldest stands first again
                self._times, self._next = self._times[self._next :] + self._times[: self._next], 0
            self._times.append(at)
            return 0.0
        wait_s = self._times[self._next] + MINUTE_S - at
        if wait_s > 0:
            return wait_s
        self._times[self._next] = at
        self._next = (self._next + 1) % limit
        return 0.0
