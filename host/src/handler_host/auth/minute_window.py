"""Amounts within any minute: requests or tokens of one consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

MINUTE_S = 60.0


class _Second:
    """Amount within one second of the clock, and the time of its last part."""

    __slots__ = ("amount", "last", "second")

    def __init__(self, second: int) -> None:
        self.second = second
        self.last = 0.0
        self.amount = 0


class MinuteWindow:
    """Sum of the amounts of the last minute; all times are on the monotonic clock, in seconds.

    The amounts of one second of the clock are kept as one entry and expire together, a minute after the last of them:
    61 entries at most, whatever the limit is. A leaky bucket (GCRA) needs one number only, but a burst after a pause
    and the refill during it add up to twice the limit within one minute.
    """

    __slots__ = ("_seconds", "_total")

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque()
        self._total = 0

    def add(self, amount: int, at: float) -> None:
        """Count an amount."""
        self._expire(at)
        seconds = self._seconds
        if not seconds or seconds[-1].second != int(at):
            seconds.append(_Second(int(at)))
        seconds[-1].last = at
        seconds[-1].amount += amount
        self._total += amount

    def total(self, at: float) -> int:
        """Return the sum of the last minute."""
        self._expire(at)
        return self._total

    def seconds_until_below(self, limit: int, at: float) -> float:
        """Return the seconds until the sum is below ``limit``; 0 if it is now."""
        if self.total(at) < limit:
            return 0.0
        seconds = self._seconds
        index, remaining = 0, self._total - seconds[0].amount
        while remaining >= limit:  # more than one entry must expire
            index += 1
            remaining -= seconds[index].amount
        # Two roundings can add up to more than a minute by the last bit.
        return min(seconds[index].last + MINUTE_S - at, MINUTE_S)

    def entries(self, at: float) -> Iterator[tuple[float, int]]:
        """Yield age in seconds and amount of each entry, the oldest first."""
        self._expire(at)
        for second in self._seconds:
            yield max(0.0, at - second.last), second.amount

    def restore(self, entries: Iterable[tuple[float, int]], at: float) -> None:
        """Count entries of :meth:`entries` that another process has had."""
        for age_s, amount in sorted(entries, reverse=True):
            if age_s < MINUTE_S:
                self.add(amount, at - age_s)

    def _expire(self, at: float) -> None:
        seconds = self._seconds
        while seconds and seconds[0].last + MINUTE_S - at <= 0.0:
            self._total -= seconds.popleft().amount
