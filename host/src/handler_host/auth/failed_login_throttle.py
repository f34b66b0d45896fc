"""Slows down who sends wrong keys again and again: by address, with growing pauses, in bounded memory."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

FREE = 5
"""Wrong keys of an address that are answered at once."""
FIRST_PAUSE = 0.5
"""Seconds before the answer to the next one; doubles with each further one."""
LONGEST_PAUSE = 8.0
FORGET_AFTER = 900.0
"""Seconds without a wrong key after which an address starts anew."""
MOST_WAITING = 8
"""Answers to one address that are held back at a time."""
MOST_ADDRESSES = 1024


class _Address:
    __slots__ = ("failures", "last", "waiting")

    def __init__(self) -> None:
        self.failures = 0
        self.last = 0.0
        self.waiting = 0


class Throttle:
    """Counts wrong keys by address."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, _Address] = OrderedDict()

    def crowded(self, address: str) -> bool:
        """Tell whether so many answers to this address are held back that no more of its keys are looked at."""
        known = self._addresses.get(address)
        return known is not None and known.waiting >= MOST_WAITING

    def pause(self, address: str, now: float | None = None) -> float:
        """Count a wrong key; return the seconds to wait before it is answered."""
        at = time.monotonic() if now is None else now
        known = self._addresses.get(address)
        if known is None or at - known.last > FORGET_AFTER:
            known = self._addresses[address] = _Address() if known is None or not known.waiting else known
            known.failures = 0
        self._addresses.move_to_end(address)
        known.failures += 1
        known.last = at
        while len(self._addresses) > MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        beyond = known.failures - FREE
        return 0.0 if beyond <= 0 else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(beyond - 1, 10))

    async def failed(self, address: str) -> None:
        """Count a wrong key, and wait before it is answered; at once where too many wait already."""
        seconds = self.pause(address)
        known = self._addresses[address]
        if not seconds or known.waiting >= MOST_WAITING:
            return
        known.waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            known.waiting -= 1

    def succeeded(self, address: str) -> None:
        """Forget the wrong keys of an address that has sent a right one."""
        known = self._addresses.get(address)
        if known is not None:
            known.failures = 0
