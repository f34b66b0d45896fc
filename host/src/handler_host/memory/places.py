"""Memory and resources of other machines: one ledger for each place, and the choice of a place for a worker.

The machine with workers is a *place*. Its launcher reports the size and what others use of it; the workers there
report their own memory with each heartbeat. Everything here is decided in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Literal

import msgspec

from handler_host._internal.units import format_size
from handler_host.memory.budget import ExceedsMemoryLimit, MemoryEstimate, WaitingActivation
from handler_host.memory.cgroups import less_headroom
from handler_host.memory.eviction import Candidate
from handler_host.memory.ledger import Key, Ledger, Request
from handler_host.memory.place import MAX_PLACE_BYTES, Place, PlaceReport
from handler_host.plugin.errors import MemoryBudget

log = logging.getLogger(__name__)

COMPARED_PLACES = 4
"""Places that are compared before workers are evicted on one of them."""

NO_PLACE_RETRY_S = 5.0
"""``Retry-After`` while a launcher has no machine at all."""


class _Waiting(msgspec.Struct, eq=False):
    """An activation that waits for a place."""

    handler: str
    estimate: MemoryEstimate
    since: float
    cleared: Place | None = None
    """The place on which workers are evicted for it."""


class PlacesBudget:
    """Reserves memory and resources on the machines of one launcher.

    ``candidate`` returns a worker that could be evicted now, or None; ``evict`` starts its unload. ``wait`` is the
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
        candidate: Callable[[str, int], Candidate | None],
        is_pinned: Callable[[str, int], bool],
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
        self._candidate = candidate
        self._is_pinned = is_pinned
        self._evict = evict
        self._homes: dict[Key, Place] = {}
        self._waiting: list[_Waiting] = []
        self._changed = asyncio.Event()
        self._doubted: set[str] = set()
        self._order: list[tuple[int, str]] = []
        """Available bytes and name of each place, the fullest first."""
        self._turn = 0

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
            self._index(self.places.pop(name))
        # One that comes back still has the workers that have not exited yet.
        known = {home.name: home for home in self._homes.values()} if reported.keys() - self.places.keys() else {}
        for name, report in reported.items():
            place = self.places.get(name)
            if place is None:
                place = self.places[name] = known.get(name) or self._make_place(report)
            place.report = report
            ledger = place.ledger
            ledger.limit, ledger.usable = report.limit, less_headroom(report.limit, self._headroom)
            ledger.measure(0, report.external_usage, {}, {})
            self._index(place)
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
        """Update the accounts from the workers' reports, in bytes; evict where a machine has too little."""
        by_place: dict[str, tuple[Place, dict[Key, int], dict[Key, int]]] = {}
        for key, size in sizes.items():
            home = self._homes.get(key)
            if home is not None:
                _, place_sizes, place_reservations = by_place.setdefault(home.name, (home, {}, {}))
                place_sizes[key] = size
                if key in reservations:
                    place_reservations[key] = reservations[key]
        for place, place_sizes, place_reservations in by_place.values():
            place.ledger.measure(0, place.report.external_usage, place_sizes, place_reservations)
            place.ledger.evict_excess()
            self._index(place)
        self.reconsider()

    def reconsider(self) -> None:
        """Reconsider the waiting activations: a worker is idle now, and could be evicted."""
        self._changed.set()

    def mark_leaving(self, handler: str, generation: int) -> None:
        """Note that a worker is on its way out."""
        home = self._homes.get((handler, generation))
        if home is not None:
            home.ledger.mark_leaving(handler, generation)

    def release(self, handler: str, generation: int) -> None:
        """Release the reservation of a worker: it has exited, or never started."""
        home = self._homes.pop((handler, generation), None)
        if home is not None:
            home.free((handler, generation))
            home.ledger.release(handler, generation)
            self._index(home)
            self.reconsider()

    def has_available(self, estimate: MemoryEstimate) -> bool:
        """Return whether a place has what the worker needs now."""
        return self._find_available(estimate) is not None

    def has_room(self, estimate: MemoryEstimate) -> bool:
        """Return whether a place has what the worker needs, and no activation waits for it."""
        return not self._waiting and self.has_available(estimate)

    def _make_place(self, report: PlaceReport) -> Place:
        ledger = Ledger(
            0,
            candidates=lambda: self._candidates_at(place),
            evict=self._evict,
            pinned=lambda: [key for key in place.held if self._is_pinned(*key)],
        )
        place = Place(report, ledger)
        return place

    def _candidates_at(self, place: Place) -> Iterator[Candidate]:
        """Yield the workers of a place that could be evicted now."""
        for key in place.held:
            candidate = self._candidate(*key)
            if candidate is not None:
                yield candidate

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
        estimate = entry.estimate
        place = self._find_available(estimate)
        if place is not None:
            amount = _amount(estimate, place)
            place.ledger.request(Request(*key, amount, amount, lambda granted: None))
            place.hold(key, estimate.resources)
            self._homes[key] = place
            self._index(place)
            return True
        if may_evict and self._waiting[0] is entry:
            self._make_room(entry)
        if entry.cleared is None and self.places and not any(_can_ever_hold(place, estimate) for place in self._all()):
            raise self._never_fits(entry.handler, estimate)
        return False

    def _find_available(self, estimate: MemoryEstimate) -> Place | None:
        """Return the place that the strategy prefers among those that have enough now."""
        first = bisect_left(self._order, (estimate.minimum, ""))
        rest = range(first, len(self._order))
        for position in rest if self._strategy == "pack" else reversed(rest):
            place = self.places[self._order[position][1]]
            if _amount(estimate, place) <= place.ledger.available and place.has_resources(estimate.resources):
                return place
        return None

    def _make_room(self, entry: _Waiting) -> None:
        """Evict idle workers on one place, and keep to it until it has enough."""
        plan = self._plan(entry.cleared, entry.estimate) if entry.cleared is not None else None
        if plan is None:
            entry.cleared, plan = self._choose_place_to_clear(entry.estimate)
        for handler, generation in plan or ():
            self._evict(handler, generation)

    def _choose_place_to_clear(self, estimate: MemoryEstimate) -> tuple[Place | None, list[Key] | None]:
        """Return the place where the fewest idle workers must leave, of the next few that are possible, with these.

        A few, in turns: the cost does not grow with the number of places, and all of them get their share.
        """
        best: tuple[Place | None, list[Key] | None] = (None, None)
        least = (sys.maxsize, 0.0)
        possible = 0
        for place in self._all():
            self._turn += 1
            plan = self._plan(place, estimate)
            if plan is None:
                continue
            possible += 1
            # Of as many, those that were used least recently.
            idle = [candidate.idle_since for key in plan if (candidate := self._candidate(*key)) is not None]
            cost = (len(plan), max(idle, default=0.0))
            if cost < least:
                best, least = (place, plan), cost
            if possible == COMPARED_PLACES:
                break
        return best

    def _plan(self, place: Place, estimate: MemoryEstimate) -> list[Key] | None:
        """Return the idle workers that must leave a place for another worker, or None if that does not suffice."""
        if self.places.get(place.name) is not place:
            return None
        if place.has_resources(estimate.resources):
            evictions = place.ledger.find_evictions(_amount(estimate, place) - place.ledger.available)
            return [eviction[:2] for eviction in evictions] if evictions is not None else None
        if not _can_ever_hold(place, estimate):
            return None
        # The idle worker that holds one of the resources and was used least recently: after it the plan is made again.
        for candidate in sorted(self._candidates_at(place), key=lambda candidate: candidate.idle_since):
            if any(name in place.held[candidate[:2]] for name in estimate.resources):
                return [candidate[:2]]
        return None

    def _all(self) -> Iterator[Place]:
        """Yield all places, in turns from another one."""
        start = self._turn % max(1, len(self._order))
        for _, name in chain(self._order[start:], self._order[:start]):
            yield self.places[name]

    def _index(self, place: Place) -> None:
        """Keep the places in the order of their available bytes."""
        if place.indexed is not None:
            del self._order[bisect_left(self._order, place.indexed)]
            place.indexed = None
        if self.places.get(place.name) is place:
            place.indexed = (place.ledger.available, place.name)
            insort(self._order, place.indexed)

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


def _amount(estimate: MemoryEstimate, place: Place) -> int:
    """Return the bytes to reserve on a place: the expected ones, or less where the whole place has no more."""
    return min(estimate.amount, max(estimate.minimum, place.ledger.max_worker))


def _can_ever_hold(place: Place, estimate: MemoryEstimate) -> bool:
    """Return whether a worker fits if every other one leaves."""
    total = place.report.resources
    has_resources = all(total.get(name, 0.0) >= amount for name, amount in estimate.resources.items())
    return has_resources and estimate.minimum <= place.ledger.max_grantable


def _needs(estimate: MemoryEstimate) -> str:
    parts = [f"{format_size(estimate.minimum)} ({estimate.source})"]
    return ", ".join([*parts, *(f"{amount:g} {name}" for name, amount in estimate.resources.items())])
