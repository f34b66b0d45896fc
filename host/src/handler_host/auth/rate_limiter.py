"""Rate limiter of one consumer: requests and tokens within any minute, tokens of a day, and dispatches in flight.

``Consumer.check`` in ``consumers.py`` applies the limits, and with ``shared.url``, ``shared_limits.py`` those of all
hosts.
"""

from __future__ import annotations

import time

from handler_host.auth.minute_window import MinuteWindow

DAY_S = 86400.0


class RateLimiter:
    """Counts of one consumer.

    No minute has more requests than allowed, wherever it starts, and all of them may come at once. Tokens are known
    only when a response has ended, so requests are refused once the tokens before them have reached the limit. A day
    is one in UTC.
    """

    __slots__ = ("_day", "_day_tokens", "_requests", "in_flight", "tokens")

    def __init__(self) -> None:
        self.in_flight = 0
        self.tokens = MinuteWindow()
        self._requests = MinuteWindow()
        self._day = 0
        self._day_tokens = 0

    def count_request(self, limit: int, now: float | None = None) -> float:
        """Count a request and return 0, or return the seconds until it is allowed; it is not counted then."""
        at = time.monotonic() if now is None else now
        wait_s = self._requests.seconds_until_below(limit, at)
        if not wait_s:
            self._requests.add(1, at)
        return wait_s

    def count_tokens(self, tokens: int, now: float | None = None, wall_clock: float | None = None) -> None:
        """Count the tokens of a response; ``now`` is on the monotonic clock, ``wall_clock`` since 1970."""
        self.tokens.add(tokens, time.monotonic() if now is None else now)
        self._day_tokens = self.day_tokens(wall_clock) + tokens

    def day_tokens(self, wall_clock: float | None = None) -> int:
        """Return the tokens since midnight in UTC; a clock that is set back over midnight starts no new day."""
        day = int((time.time() if wall_clock is None else wall_clock) // DAY_S)
        if day not in (self._day, self._day - 1):
            self._day, self._day_tokens = day, 0
        return self._day_tokens

    def restore_day(self, wall_clock: float, tokens: int) -> None:
        """Count the tokens that an earlier process had counted on the day of ``wall_clock``."""
        self._day, self._day_tokens = int(wall_clock // DAY_S), tokens
