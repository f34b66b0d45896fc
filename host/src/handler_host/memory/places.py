"""Memory and resources of other machines: one ledger for each place, and the choice of a place for a worker.

The machine with workers is a *place*. Its launcher reports the size and what others use of it; the workers there
report their own memory with each heartbeat. Everything here is decided in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from handler_host.memory.budget import MemoryEstimate, WaitingActivation
from handler_host.memory.cgroups import less_headroom
from handler_host.memory.eviction import Candidate
from handler_host.memory.ledger import Key, Ledger, Request
from handler_host.memory.place import MAX_PLACE_BYTES, Place, PlaceReport
from handler_host.memory.place_index import MEMORY, PlaceIndex
from handler_host.memory.place_refusals import never_fits, no_place

log = logging.getLogger(__name__)

COMPARED_PLACES = 4
"""Places that are compared before workers are evicted on one of them."""


class _Waiting(msgspec.Struct, eq=False):
    """An activation that waits for a place."""

    key: Key
    estimate: MemoryEstimate
    since: float
    outcome: asyncio.Future[None]
    """Set when it has its place, or can never have one."""
    resources: frozenset[tuple[str, float]]
    """Those of the estimate, to compare them with others'."""
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
        self._is_granting = False
        self._doubted: set[str] = set()
        self._available = PlaceIndex()
        self._obtainable = PlaceIndex()
        """What a place has if all its idle workers leave, or more: it is corrected when the place is looked at."""
        self._totals = PlaceIndex()
        self._least_max_worker = 0
        """Bytes that a worker can use at most on the smallest place."""
        self._turn = 0

    @property
    def waiting(self) -> list[WaitingActivation]:
        """The activations that wait, in their order."""
        return [WaitingActivation(entry.key[0], entry.estimate.amount, entry.since) for entry in self._waiting]

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
            for index in (self._available, self._obtainable, self._totals):
                index.discard(name)
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
            self._totals.set(name, {**report.resources, MEMORY: report.limit})
            self._index(place)
        self._least_max_worker = min((place.ledger.max_worker for place in self.places.values()), default=0)
        for entry in self._waiting.copy():
            self._refuse_if_never_fits(entry)
        self._grant_waiting()

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
        outcome = asyncio.get_running_loop().create_future()
        resources = frozenset(estimate.resources.items())
        entry = _Waiting((handler, generation), estimate, time.monotonic(), outcome, resources)
        self._refuse_if_never_fits(entry)
        if not entry.outcome.done() and (may_wait or not self._waiting):
            self._waiting.append(entry)
            self._grant_waiting(may_evict=may_wait)
        has_place = False
        try:
            if may_wait and not entry.outcome.done():
                await asyncio.wait({entry.outcome}, timeout=self._wait())
            if not entry.outcome.done():
                self.refused += 1
                raise no_place(self._launcher, len(self.places), handler, estimate, self._wait())
            entry.outcome.result()
            has_place = True
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
            if not has_place:
                # Also if the call was cancelled just when it was granted; the next one in the queue may fit now.
                self.release(handler, generation)
                self._grant_waiting()

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
        self._grant_waiting()

    def mark_idle(self, handler: str, generation: int) -> None:
        """Note that a worker is idle now: it could be evicted for an activation that waits."""
        home = self._homes.get((handler, generation))
        if home is not None:
            self._index(home)
        self._grant_waiting()

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
            self._grant_waiting()

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
            text = "place %s of launcher %s is not used: %s; correct the size with which the engine was started there"
            log.warning(text, report.name, self._launcher, flaw)
        return flaw is None

    def _grant_waiting(self, *, may_evict: bool = True) -> None:
        """Reserve places for those that wait, in their order; evict for the first one that must wait on.

        What is freed for that one goes to no other.
        """
        if self._is_granting:
            return  # an eviction reports back at once
        self._is_granting = True
        try:
            self._grant_in_order(may_evict)
        finally:
            self._is_granting = False

    def _grant_in_order(self, may_evict: bool) -> None:
        first: _Waiting | None = None
        failed: dict[frozenset[tuple[str, float]], MemoryEstimate] = {}
        for entry in self._waiting.copy():
            estimate = entry.estimate
            smaller = failed.get(entry.resources)
            if smaller is not None and smaller.amount <= estimate.amount and smaller.minimum <= estimate.minimum:
                continue
            place = self._find_available(estimate, first.cleared if first is not None else None)
            if place is not None:
                self._grant(entry, place)
                continue
            failed[entry.resources] = estimate
            if first is None:
                first = entry
                if may_evict:
                    self._make_room(entry)

    def _grant(self, entry: _Waiting, place: Place) -> None:
        amount = _amount(entry.estimate, place)
        place.ledger.request(Request(*entry.key, amount, amount, lambda granted: None))
        place.hold(entry.key, entry.estimate.resources)
        self._homes[entry.key] = place
        self._available.set(place.name, place.available)
        self._waiting.remove(entry)
        entry.outcome.set_result(None)

    def _refuse_if_never_fits(self, entry: _Waiting) -> None:
        """End the wait of an activation that no known place can ever hold."""
        estimate = entry.estimate
        if not self.places or entry.cleared is not None:
            return
        needs = {**estimate.resources, MEMORY: estimate.minimum}
        if not any(_can_ever_hold(self.places[name], estimate) for name in self._totals.search(needs)):
            if entry in self._waiting:
                self._waiting.remove(entry)
            error = never_fits(self._launcher, self.places.values(), entry.key[0], estimate)
            entry.outcome.set_exception(error)

    def _find_available(self, estimate: MemoryEstimate, excluded: Place | None = None) -> Place | None:
        """Return the place that the strategy prefers among those that have enough now."""
        needs = {MEMORY: self._least_need(estimate), **estimate.resources}
        for name in self._available.search(needs, largest_first=self._strategy == "spread"):
            place = self.places[name]
            if place is not excluded and _amount(estimate, place) <= place.ledger.available:
                return place
        return None

    def _least_need(self, estimate: MemoryEstimate) -> int:
        """Return the bytes that a worker needs at least, on whatever place."""
        return estimate.amount if estimate.amount <= self._least_max_worker else estimate.minimum

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
        possible, insufficient = 0, []
        needs = {MEMORY: self._least_need(estimate), **estimate.resources}
        for name in self._obtainable.search(needs, turn=self._turn):
            self._turn += 1
            place = self.places[name]
            plan = self._plan(place, estimate)
            if plan is None:
                insufficient.append(place)
                continue
            possible += 1
            # Of as many, those that were used least recently.
            idle = [candidate.idle_since for key in plan if (candidate := self._candidate(*key)) is not None]
            cost = (len(plan), max(idle, default=0.0))
            if cost < least:
                best, least = (place, plan), cost
            if possible == COMPARED_PLACES:
                break
        for place in insufficient:
            self._obtainable.set(place.name, place.obtainable)
        return best

    def _plan(self, place: Place, estimate: MemoryEstimate) -> list[Key] | None:
        """Return the idle workers that must leave a place for another worker, or None if that does not suffice."""
        if self.places.get(place.name) is not place:
            return None
        obtained = place.amounts_with(place.ledger.leaving)
        lacking = [name for name, amount in estimate.resources.items() if obtained.get(name, 0.0) < amount]
        if not lacking:
            evictions = place.ledger.find_evictions(_amount(estimate, place) - place.ledger.available)
            return [eviction[:2] for eviction in evictions] if evictions is not None else None
        # The idle worker that holds one of the resources and was used least recently: after it the plan is made again.
        for candidate in sorted(self._candidates_at(place), key=lambda candidate: candidate.idle_since):
            if any(name in place.held[candidate[:2]] for name in lacking):
                return [candidate[:2]]
        return None

    def _index(self, place: Place) -> None:
        """Keep the places in the order of what they have; until the next look, all workers of this one could leave."""
        if self.places.get(place.name) is place:
            self._available.set(place.name, place.available)
            self._obtainable.set(place.name, {**place.report.resources, MEMORY: place.ledger.limit})


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
