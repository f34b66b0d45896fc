"""What one consumer uses: requests within any minute, and dispatches under way."""

from __future__ import annotations

import time
from array import array

MINUTE = 60.0


class RateLimiter:
    """Counts of one consumer. The requests are kept as times, so that no minute has more than allowed."""

    __slots__ = ("_next", "_times", "under_way")

    def __init__(self) -> None:
        self.under_way = 0
        self._times = array("d")
        self._next = 0

    def request(self, most: int, now: float | None = None) -> float:
        """Count a request; return 0, or the seconds until there is room for one more: then it is not counted."""
        at = time.monotonic() if now is None else now
        if len(self._times) > most:
            # The limit was lowered: the newest ones count.
            ordered = self._times[self._next :] + self._times[: self._next]
            self._times, self._next = ordered[len(ordered) - most :], 0
        if len(self._times) < most:
            if self._next:  # the limit was raised: the oldest stands first again
                self._times, self._next = self._times[self._next :] + self._times[: self._next], 0
            self._times.append(at)
            return 0.0
        wait = self._times[self._next] + MINUTE - at
        if wait > 0:
            return wait
        self._times[self._next] = at
        self._next = (self._next + 1) % most
        return 0.0
