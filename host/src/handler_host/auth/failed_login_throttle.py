"""Throttle for failed logins: per address, with growing delays, in bounded memory."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from handler_host.plugin.errors import RateLimited

FREE_FAILURES = 5
"""Wrong keys of an address that are answered at once."""
FIRST_DELAY_S = 0.5
"""Delay of the next one; it doubles with each further one."""
MAX_DELAY_S = 8.0
FORGET_AFTER_S = 900.0
"""Time without a wrong key after which an address starts from zero."""
MAX_DELAYED = 8
"""Delayed responses to one address at a time."""
MAX_ADDRESSES = 1024


class _Address:
    __slots__ = ("delayed", "failed_at", "failures")

    def __init__(self) -> None:
        self.failures = 0
        self.failed_at = 0.0
        self.delayed = 0


class FailedLoginThrottle:
    """Counts of wrong keys per address.

    Each of ``instances`` hosts allows its part. ``count_shared`` counts a wrong key on all hosts and returns its delay
    in seconds, ``forget_shared`` forgets those of an address there.
    """

    def __init__(
        self,
        instances: int = 1,
        count_shared: Callable[[str], Awaitable[float]] | None = None,
        forget_shared: Callable[[str], None] | None = None,
    ) -> None:
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._instances = instances
        self._count_shared = count_shared
        self._forget_shared = forget_shared

    def count_failure(self, address: str, now: float | None = None) -> float:
        """Count a wrong key; return the seconds by which its response is to be delayed."""
        at = time.monotonic() if now is None else now
        known = self._addresses.get(address)
        if known is None or at - known.failed_at > FORGET_AFTER_S:
            known = self._addresses[address] = _Address() if known is None or not known.delayed else known
            known.failures = 0
        self._addresses.move_to_end(address)
        known.failures += 1
        known.failed_at = at
        while len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        excess = known.failures - self._part(FREE_FAILURES)
        return 0.0 if excess <= 0 else min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(excess - 1, 10))

    async def delay_failure(self, address: str) -> None:
        """Count a wrong key and wait before its response.

        Raises ``RateLimited`` if too many are delayed already: more connections must not make guessing faster.
        """
        delay_s = self.count_failure(address)
        known = self._addresses[address]
        if self._count_shared is not None:
            delay_s = max(delay_s, await self._count_shared(address))
        if not delay_s:
            return
        if known.delayed >= self._part(MAX_DELAYED):
            raise RateLimited("too many wrong keys from this address at the same time", retry_after=delay_s)
        known.delayed += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            known.delayed -= 1

    def reset(self, address: str) -> None:
        """Forget the wrong keys of an address that has sent a valid one."""
        known = self._addresses.get(address)
        if known is not None and known.failures:
            known.failures = 0
            if self._forget_shared is not None:
                self._forget_shared(address)

    def _part(self, limit: int) -> int:
        return max(min(1, limit), limit // self._instances)
