"""The memory budget: bytes reserved before a fork, bytes measured after it.

An activation reserves the memory that its handler is expected to use. If too little
is available, idle workers are evicted, least recently used first, by the fewest
evictions that suffice; then the activation waits, for a bounded time. The accounts
are in ``handler_host.memory.ledger``; all decisions are made in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from handler_host._internal.units import format_size
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.config import HandlerPolicy
from handler_host.memory.eviction import Candidate
from handler_host.memory.ledger import Key, Ledger, Request
from handler_host.plugin.errors import MemoryBudget


class MemoryEstimate(NamedTuple):
    """The memory that an activation is expected to use."""

    amount: int
    """Bytes."""
    minimum: int
    """Bytes that a worker has run with; equal to ``amount`` where nothing was learned."""
    source: str
    """``learned``, ``configured``, ``manifest`` or ``default``."""
    seconds_until_trial: float | None = None
    """For learned memory that exceeds the limit: the wait until a worker is tried all the same."""
    resources: Mapping[str, float] = MappingProxyType({})
    """Resources besides memory, for a worker on another machine."""


def configured_estimate(entry: CatalogEntry, policy: HandlerPolicy, default: int) -> MemoryEstimate:
    """Return the estimate of the configuration or the manifest, else the default."""
    if policy.memory_estimate is None:
        return MemoryEstimate(default, default, "default")
    manifest = entry.manifest.memory_estimate if entry.manifest is not None else None
    source = "manifest" if policy.memory_estimate == manifest else "configured"
    return MemoryEstimate(policy.memory_estimate, policy.memory_estimate, source)


class WorkerBudget(Protocol):
    """The accounts of workers: those of this machine, or those of the machines of a launcher."""

    def has_available(self, estimate: MemoryEstimate) -> bool:
        """Return whether the worker could start without a wait."""

    def has_room(self, estimate: MemoryEstimate) -> bool:
        """Return whether the worker could start without a wait, and without delay for another activation."""

    async def reserve(self, handler: str, generation: int, estimate: MemoryEstimate, *, may_wait: bool = True) -> None:
        """Reserve the memory of a worker; raises ``HostError``."""

    def mark_idle(self, handler: str, generation: int) -> None:
        """Note that a worker is idle now: it could be evicted for an activation that waits."""

    def mark_leaving(self, handler: str, generation: int) -> None:
        """Note that a worker is on its way out."""

    def release(self, handler: str, generation: int) -> None:
        """Close the account of a worker."""


class WaitingActivation(NamedTuple):
    """An activation that waits for memory."""

    handler: str
    amount: int
    since: float
    """On the monotonic clock."""


class ExceedsMemoryLimit(MemoryBudget):
    """A handler needs more than the whole budget: a retry cannot succeed."""

    retryable = False


class Budget:
    """Reserves the bytes that host, fork server and workers may use together.

    ``wait`` is the longest time that an activation may wait, in seconds;
    ``seconds_until_available`` estimates when a refused one may succeed. The other
    callbacks are those of :class:`Ledger`.
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
        seconds_until_available: Callable[[], float] | None = None,
    ) -> None:
        self.ledger = Ledger(usable, candidates=candidates, evict=evict, pinned=pinned, limit=limit)
        self.refused = 0
        """Activations that were refused for want of memory."""
        self._wait = wait
        self._seconds_until_available = seconds_until_available or (lambda: wait)
        self._waiting: dict[Request, float] = {}

    @property
    def waiting(self) -> list[WaitingActivation]:
        """The activations that wait for memory, in their order."""
        return [WaitingActivation(request.handler, request.amount, since) for request, since in self._waiting.items()]

    async def reserve(self, handler: str, generation: int, estimate: MemoryEstimate, *, may_wait: bool = True) -> None:
        """Reserve the memory of a worker, and wait for it if it is not available.

        Without ``may_wait`` it is now or never: no worker is evicted for it, and no
        other request waits behind it. Raises :class:`MemoryBudget` if there is too
        little within the time that an activation may wait, and
        :class:`ExceedsMemoryLimit` if the budget can never hold it. Cancelling the
        call withdraws the request.
        """
        ledger = self.ledger
        if not may_wait and not self.has_room(estimate):
            raise self._not_available(handler, estimate)
        outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        request = Request(handler, generation, estimate.amount, estimate.minimum, outcome.set_result)
        self._waiting[request] = time.monotonic()
        granted = False
        try:
            ledger.request(request)
            await asyncio.wait({outcome}, timeout=self._wait)
            granted = outcome.done() and outcome.result()
        finally:
            del self._waiting[request]
            if not granted:
                # Also if the call was cancelled just when the request was granted.
                ledger.withdraw(request)
        if not granted:
            self.refused += 1
            raise (self._exceeds_limit(handler, estimate) if outcome.done() else self._not_available(handler, estimate))

    def has_available(self, estimate: MemoryEstimate) -> bool:
        """Return whether the bytes are available without an eviction."""
        return estimate.amount <= self.ledger.available

    def has_room(self, estimate: MemoryEstimate) -> bool:
        """Return whether the bytes are available, and no activation waits for them."""
        return not self._waiting and not self.ledger.under_pressure and self.has_available(estimate)

    def mark_idle(self, handler: str, generation: int) -> None:
        """Note that a worker is idle now: it could be evicted for an activation that waits."""
        self.ledger.schedule()

    def mark_leaving(self, handler: str, generation: int) -> None:
        """Note that a worker is on its way out."""
        self.ledger.mark_leaving(handler, generation)

    def release(self, handler: str, generation: int) -> None:
        """Close the account of a worker: its process has exited, or never started."""
        self.ledger.release(handler, generation)

    def resize(self, usable: int, limit: int, wait: float) -> None:
        """Change the limit. Reservations stay; the next measurement reconsiders the waiting requests."""
        self.ledger.usable, self.ledger.limit, self._wait = usable, limit, wait

    def _exceeds_limit(self, handler: str, estimate: MemoryEstimate) -> MemoryBudget:
        ledger = self.ledger
        max_grantable = max(0, ledger.max_grantable)
        pinned = ledger.limit - ledger.base - ledger.max_grantable
        remedy = "raise memory.limit, or choose a larger machine"
        if estimate.source == "learned":
            trial = estimate.seconds_until_trial
            when = f"the host tries it again in {math.ceil(trial)} s, or " if trial else ""
            remedy = (
                f"{when}`handler-host forget {handler}` discards what was learned; learn_memory = false with "
                f"memory_estimate overrides it; else {remedy}"
            )
        pinned_text = f", pinned handlers {format_size(pinned)}" if pinned else ""
        return ExceedsMemoryLimit(
            f"{handler} needs {format_size(estimate.minimum)} ({estimate.source}), but the limit of "
            f"{format_size(ledger.limit)} leaves {format_size(max_grantable)} for it, even alone and with the headroom "
            f"(the host uses {format_size(ledger.base)}{pinned_text}); {remedy}",
            retry_after=estimate.seconds_until_trial,
            details={
                "needed": estimate.minimum,
                "needed_source": estimate.source,
                "possible": max_grantable,
                "limit": ledger.limit,
                "usable": ledger.usable,
                "host": ledger.base,
                "pinned": pinned,
            },
        )

    def _not_available(self, handler: str, estimate: MemoryEstimate) -> MemoryBudget:
        ledger = self.ledger
        free = max(0, ledger.available)
        reason = "the kernel reports memory pressure" if ledger.under_pressure else "no idle handler could be unloaded"
        return MemoryBudget(
            f"not enough memory for {handler}: it needs {format_size(estimate.amount)} ({estimate.source}), "
            f"{format_size(free)} of {format_size(ledger.usable)} are available, and {reason} within {self._wait:g} s; "
            "retry later, or raise memory.limit",
            retry_after=self._seconds_until_available(),
            details={
                "needed": estimate.amount,
                "needed_source": estimate.source,
                "free": free,
                "usable": ledger.usable,
                "used": ledger.used,
                "reserved": ledger.reserved,
            },
        )
