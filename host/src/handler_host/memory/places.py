"""Memory and resources of other machines: one ledger for each place, and the choice of a place for a worker.

The machine with workers is a *place*. Its launcher reports the size and what others use of it; the workers there
report their own memory with each heartbeat. Everything here is decided in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from handler_host._internal.units import format_size
from handler_host.memory.budget import ExceedsMemoryLimit, MemoryEstimate, WaitingActivation
from handler_host.memory.eviction import Candidate
from handler_host.memory.ledger import Key, Ledger, Request
from handler_host.plugin.errors import MemoryBudget

log = logging.getLogger(__name__)

MAX_PLACE_BYTES = 2**50
"""A place that reports more memory than this is not believed."""

NO_PLACE_RETRY_S = 5.0
"""``Retry-After`` while a launcher has no machine at all."""


class PlaceReport(msgspec.Struct, frozen=True, array_like=True):
    """One machine as its launcher sees it."""

    name: str
    limit: int
    """Bytes that workers may use there, together with others."""
    external_usage: int = 0
    """Bytes of ``limit`` that others use or have reserved."""
    resources: dict[str, float] = {}
    """Resources besides memory, such as ``CPU`` and ``GPU``: what it has in all, less what others have reserved."""

    @property
    def flaw(self) -> str | None:
        """What is wrong with the report; None if nothing is."""
        if not 0 < self.limit <= MAX_PLACE_BYTES:
            return f"it reports {self.limit} bytes of memory"
        if not 0 <= self.external_usage <= MAX_PLACE_BYTES:
            return f"it reports {self.external_usage} bytes in use by others"
        if not all(0 <= amount < float("inf") for amount in self.resources.values()):
            return "it reports a resource that is not a number of 0 or more"
        return None


class Place:
    """One machine with its ledger, and the resources that this host's workers hold there."""

    def __init__(self, report: PlaceReport, ledger: Ledger) -> None:
        self.name = report.name
        self.report = report
        self.ledger = ledger
        self.held: dict[Key, Mapping[str, float]] = {}

    def can_ever_hold(self, minimum: int, resources: Mapping[str, float]) -> bool:
        """Return whether a worker fits if every other one leaves."""
        has_resources = all(self.report.resources.get(name, 0.0) >= amount for name, amount in resources.items())
        return has_resources and minimum <= self.ledger.max_grantable

    def has_resources(self, resources: Mapping[str, float]) -> bool:
        """Return whether the resources are available now."""
        return all(
            self.report.resources.get(name, 0.0) - sum(held.get(name, 0.0) for held in self.held.values()) >= amount
            for name, amount in resources.items()
        )


class _Waiting(msgspec.Struct, eq=False):
    """An activation that waits for a place."""

    handler: str
    estimate: MemoryEstimate
    since: float


class PlacesBudget:
    """Reserves memory and resources on the machines of one launcher.

    ``candidates`` yields the idle workers of the host with their place; ``evict`` starts an unload. ``wait`` is the
    longest time that an activation may wait, in seconds; ``headroom`` the share or the bytes to keep free on each
    place.
    """

    def __init__(
        self,
        launcher: str,
        *,
        strategy: Literal["pack", "spread"],
        headroom: float | int,
        wait: Callable[[], float],
        candidates: Callable[[str], Iterable[Candidate]],
        pinned: Callable[[str], Iterable[Key]],
        evict: Callable[[str, int], None],
    ) -> None:
        self.places: dict[str, Place] = {}
        self.connect: Callable[[], Awaitable[None]] = _do_nothing
        """Awaited before each reservation: connects the launcher, which then reports its places."""
        self.refused = 0
        """Activations that were refused for want of a place."""
        self._launcher = launcher
        self._strategy = strategy
        self._headroom = headroom
        self._wait = wait
        self._candidates = candidates
        self._pinned = pinned
        self._evict = evict
        self._homes: dict[Key, Place] = {}
        self._waiting: list[_Waiting] = []
        self._changed = asyncio.Event()
        self._doubted: set[str] = set()

    @property
    def waiting(self) -> list[WaitingActivation]:
        """The activations that wait, in their order."""
        return [WaitingActivation(entry.handler, entry.estimate.amount, entry.since) for entry in self._waiting]

    @property
    def max_worker(self) -> int:
        """Bytes that a worker can use at most on the largest place; unlimited while no place is known."""
        return max((place.ledger.max_worker for place in self.places.values()), default=MAX_PLACE_BYTES)

    def place_of(self, handler: str, generation: int) -> str | None:
        """Return the place on which a worker has its reservation."""
        home = self._homes.get((handler, generation))
        return home.name if home is not None else None

    def size_of(self, handler: str, generation: int) -> int:
        """Return the bytes that a worker counts with."""
        home = self._homes.get((handler, generation))
        return home.ledger.size_of(handler, generation) if home is not None else 0

    def resources_of(self, handler: str, generation: int) -> Mapping[str, float]:
        """Return the resources besides memory that a worker holds."""
        home = self._homes.get((handler, generation))
        return home.held.get((handler, generation), {}) if home is not None else {}

    def update(self, reports: Iterable[PlaceReport]) -> None:
        """Replace the known places; one that is gone takes no further worker."""
        reported = {report.name: report for report in reports if self._is_credible(report)}
        for name in self.places.keys() - reported.keys():
            del self.places[name]
        for name, report in reported.items():
            place = self.places.get(name)
            if place is None:
                place = self.places[name] = Place(report, self._make_ledger(name))
            place.report = report
            ledger = place.ledger
            free = self._headroom if isinstance(self._headroom, int) else int(report.limit * self._headroom)
            ledger.limit, ledger.usable = report.limit, max(0, report.limit - free)
            ledger.measure(0, report.external_usage, {}, {})
        self.reconsider()

    async def reserve(
        self,
        handler: str,
        generation: int,
        estimate: MemoryEstimate,
        *,
        may_wait: bool = True,
    ) -> None:
        """Reserve a place for a worker, and wait for one if none is available.

        Raises :class:`MemoryBudget` if none becomes available in time, :class:`ExceedsMemoryLimit` if no known
        place can ever hold it, and the launcher's error if it cannot reach its machines.
        """
        await self.connect()
        entry = _Waiting(handler, estimate, time.monotonic())
        key = (handler, generation)
        self._waiting.append(entry)
        deadline = entry.since + (self._wait() if may_wait else 0.0)
        try:
            while not self._try_reserve(entry, key, may_evict=may_wait):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    self.refused += 1
                    raise self._refusal(handler, estimate)
                self._changed.clear()
                try:
                    async with asyncio.timeout(remaining):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            self._waiting.remove(entry)
            # The next one in the queue may fit now that this one is gone.
            self.reconsider()

    def measure(self, sizes: Mapping[Key, int], reservations: Mapping[Key, int]) -> None:
        """Update the accounts with what the workers have reported, in bytes; evict where that is too much."""
        for place in self.places.values():
            ledger = place.ledger
            ledger.measure(
                0,
                place.report.external_usage,
                {key: size for key, size in sizes.items() if self._homes.get(key) is place},
                {key: size for key, size in reservations.items() if self._homes.get(key) is place},
            )
            ledger.evict_excess()
        self.reconsider()

    def reconsider(self) -> None:
        """Look again at the activations that wait: a worker is idle now, and could be evicted."""
        self._changed.set()

    def mark_leaving(self, handler: str, generation: int) -> None:
        """Note that a worker is on its way out."""
        home = self._homes.get((handler, generation))
        if home is not None:
            home.ledger.mark_leaving(handler, generation)

    def release(self, handler: str, generation: int) -> None:
        """Give back what a worker has reserved: it has exited, or never started."""
        home = self._homes.pop((handler, generation), None)
        if home is not None:
            home.held.pop((handler, generation), None)
            home.ledger.release(handler, generation)
            self.reconsider()

    def has_available(self, estimate: MemoryEstimate) -> bool:
        """Return whether a place has what the worker needs now."""
        return any(
            place.has_resources(estimate.resources) and estimate.minimum <= place.ledger.available
            for place in self.places.values()
        )

    def has_room(self, estimate: MemoryEstimate) -> bool:
        """Return whether a place has what the worker needs, and no activation waits for it."""
        return not self._waiting and self.has_available(estimate)

    def _make_ledger(self, name: str) -> Ledger:
        return Ledger(
            0, candidates=lambda: self._candidates(name), evict=self._evict, pinned=lambda: self._pinned(name)
        )

    def _is_credible(self, report: PlaceReport) -> bool:
        flaw = report.flaw
        if flaw is None:
            self._doubted.discard(report.name)
        elif report.name not in self._doubted:
            self._doubted.add(report.name)
            log.warning("place %s of launcher %s is not used: %s", report.name, self._launcher, flaw)
        return flaw is None

    def _try_reserve(self, entry: _Waiting, key: Key, *, may_evict: bool) -> bool:
        """Reserve now if that is possible, or start the evictions that make it possible."""
        estimate, resources = entry.estimate, entry.estimate.resources
        able = [place for place in self.places.values() if place.can_ever_hold(estimate.minimum, resources)]
        if self.places and not able:
            raise self._never_fits(entry.handler, estimate)
        for place in self._by_preference(able):
            if not place.has_resources(resources):
                continue
            ledger = place.ledger
            amount = min(estimate.amount, max(estimate.minimum, ledger.max_worker))
            if amount <= ledger.available:
                ledger.request(Request(*key, amount, amount, lambda granted: None))
                self._homes[key] = place
                place.held[key] = resources
                return True
        if may_evict and self._waiting[0] is entry:
            self._make_room(able, estimate)
        return False

    def _make_room(self, able: Iterable[Place], estimate: MemoryEstimate) -> None:
        """Evict idle workers on the place where the fewest must leave."""
        best: list[Key] | None = None
        for place in able:
            if place.has_resources(estimate.resources):
                missing = estimate.minimum - place.ledger.available
                evictions = place.ledger.find_evictions(missing)
                leaving = [eviction[:2] for eviction in evictions] if evictions is not None else None
            else:
                leaving = self._holder(place, estimate.resources)
            if leaving is not None and (best is None or len(leaving) < len(best)):
                best = leaving
        for handler, generation in best or ():
            self._evict(handler, generation)

    def _holder(self, place: Place, resources: Mapping[str, float]) -> list[Key] | None:
        """Return the idle worker that holds one of the resources and was used least recently."""
        for candidate in sorted(self._candidates(place.name), key=lambda candidate: candidate.idle_since):
            key = candidate[:2]
            if any(name in place.held.get(key, {}) for name in resources):
                return [key]
        return None

    def _by_preference(self, places: Iterable[Place]) -> Iterator[Place]:
        return iter(
            sorted(places, key=lambda place: (place.ledger.available, place.name), reverse=self._strategy == "spread")
        )

    def _never_fits(self, handler: str, estimate: MemoryEstimate) -> MemoryBudget:
        largest = max(place.ledger.max_grantable for place in self.places.values())
        return ExceedsMemoryLimit(
            f"{handler} needs {_needs(estimate)}, which none of the {len(self.places)} machines of the "
            f"launcher {self._launcher!r} has even when it is empty (largest: {format_size(max(0, largest))}); "
            "add a machine that has it, or correct memory_estimate and resources of the handler",
            details={"needed": estimate.minimum, "needed_source": estimate.source, "possible": max(0, largest)},
        )

    def _refusal(self, handler: str, estimate: MemoryEstimate) -> MemoryBudget:
        reason = (
            f"none of its {len(self.places)} machines has that available, and no idle handler could be unloaded"
            if self.places
            else "it has no machine yet"
        )
        return MemoryBudget(
            f"no place for {handler} on the launcher {self._launcher!r}: it needs {_needs(estimate)}, and "
            f"{reason} within {self._wait():g} s; retry later, or add a machine",
            retry_after=self._wait() or NO_PLACE_RETRY_S,
            details={"needed": estimate.amount, "needed_source": estimate.source, "machines": len(self.places)},
        )


async def _do_nothing() -> None:
    """Connect nothing."""


def _needs(estimate: MemoryEstimate) -> str:
    parts = [f"{format_size(estimate.minimum)} ({estimate.source})"]
    return ", ".join([*parts, *(f"{amount:g} {name}" for name, amount in estimate.resources.items())])
