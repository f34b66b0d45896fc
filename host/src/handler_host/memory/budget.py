"""The memory budget: bytes promised before a fork, bytes measured after it.

An activation reserves what its handler is expected to take. While there is no
room, idle handlers are evicted, least recently used first, by the fewest evictions
that suffice; then the activation waits, for a bounded time. The accounts are
``handler_host.memory.ledger``'s; all decisions are made in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from handler_host._internal.units import format_size
from handler_host.memory.ledger import Candidate, Key, Ledger, Request
from handler_host.plugin.errors import MemoryBudget


class MemoryEstimate(NamedTuple):
    """What an activation is expected to take."""

    amount: int
    """Bytes."""
    minimum: int
    """Bytes that it has run with; where nothing was learned, the same."""
    source: str
    """``learned``, ``configured``, ``manifest`` or ``default``."""


class Waiting(NamedTuple):
    """An activation that waits for room."""

    handler: str
    amount: int
    since: float
    """On the monotonic clock."""


class Budget:
    """Hands out the bytes that host, fork server and workers may use together.

    ``wait`` is how many seconds an activation may wait; ``chance`` tells after how
    many seconds there may be room, as measured, for who has waited in vain.
    """

    def __init__(
        self,
        usable: int,
        *,
        limit: int | None = None,
        wait: float,
        candidates: Callable[[], Iterable[Candidate]],
        evict: Callable[[str, int], None],
        pinned: Callable[[], Iterable[Key]] = tuple,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self.ledger = Ledger(usable, candidates=candidates, evict=evict, pinned=pinned, limit=limit)
        self.refused = 0
        """Activations that got no room."""
        self._wait = wait
        self._chance = chance or (lambda: wait)
        self._waiting: dict[Request, float] = {}

    @property
    def waiting(self) -> list[Waiting]:
        """The activations that wait for room, the first one first."""
        return [Waiting(one.handler, one.amount, since) for one, since in self._waiting.items()]

    async def reserve(self, handler: str, generation: int, expected: MemoryEstimate, *, patient: bool = True) -> None:
        """Promise this generation what it is expected to take, when there is room.

        Without ``patient`` it is now or never: nobody is evicted for it, nor held up behind it.
        Raises :class:`MemoryBudget` if there is none within the time that an activation
        may wait, :class:`ExceedsMemoryLimit` if there can never be. Being cancelled gives the
        place in the queue up.
        """
        ledger = self.ledger
        if not patient and (self._waiting or ledger.under_pressure or expected.amount > ledger.room):
            raise self._no_room(handler, expected)
        outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        request = Request(handler, generation, expected.amount, expected.minimum, outcome.set_result)
        self._waiting[request] = time.monotonic()
        granted = False
        try:
            self.ledger.ask(request)
            await asyncio.wait({outcome}, timeout=self._wait)
            granted = outcome.done() and outcome.result()
        finally:
            del self._waiting[request]
            if not granted:
                # Also when it was cancelled in the very moment it was granted.
                self.ledger.withdraw(request)
        if not granted:
            self.refused += 1
            raise self._never(handler, expected) if outcome.done() else self._no_room(handler, expected)

    def resize(self, usable: int, limit: int, wait: float) -> None:
        """Take another limit; who has memory keeps it, who waits is looked at again by the next measurement."""
        self.ledger.usable, self.ledger.limit, self._wait = usable, limit, wait

    def _never(self, handler: str, expected: MemoryEstimate) -> MemoryBudget:
        ledger = self.ledger
        max_grantable = max(0, ledger.max_grantable)
        pinned = ledger.limit - ledger.base - ledger.max_grantable
        held = f", {format_size(pinned)} by pinned handlers" if pinned else ""
        return ExceedsMemoryLimit(
            f"{handler} needs {format_size(expected.minimum)} ({expected.source}), and the limit of "
            f"{format_size(ledger.limit)} leaves {format_size(max_grantable)} for it, alone and with the headroom "
            f"({format_size(ledger.base)} are used by the host{held}); raise memory.limit, or the plan of the machine",
            details={
                "needed": expected.minimum,
                "needed_source": expected.source,
                "possible": max_grantable,
                "limit": ledger.limit,
                "usable": ledger.usable,
                "host": ledger.base,
                "pinned": pinned,
            },
        )

    def _no_room(self, handler: str, expected: MemoryEstimate) -> MemoryBudget:
        ledger = self.ledger
        free = max(0, ledger.room)
        reason = (
            "the kernel reports that memory is short" if ledger.under_pressure else "no idle handler could be unloaded"
        )
        return MemoryBudget(
            f"no room for {handler}: it needs {format_size(expected.amount)} ({expected.source}), {format_size(free)} "
            f"are free of {format_size(ledger.usable)}, and {reason} within {self._wait:g} s",
            retry_after=self._chance(),
            details={
                "needed": expected.amount,
                "needed_source": expected.source,
                "free": free,
                "usable": ledger.usable,
                "used": ledger.used,
                "reserved": ledger.reserved,
            },
        )


class ExceedsMemoryLimit(MemoryBudget):
    """A handler needs more than the whole budget: asking again is of no use."""

    retryable = False
