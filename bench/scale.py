"""Decisions for many handlers on many machines, without a process: cost, balance and evictions.

    python bench/scale.py                       # 1, 10 and 100 machines; 100 to 10,000 handlers
    python bench/scale.py --arrivals FILE       # handlers of a recorded pattern, one name a line

The pure step function of each handler (``lifecycle/transitions.py``) and the ledgers of all machines
(``memory/places.py``) run on an invented clock. Arrivals have a seed and follow Zipf's law: few handlers are popular,
most are rare. A decision is everything that follows one dispatch: its admission, the choice of a machine, evictions.

A second table is of machines that are full of busy workers: each decision is the end of one of them, the place that the
first of the waiting activations gets, and one more activation that waits.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.tables import header, print_table
from handler_host.config import HandlerPolicy
from handler_host.lifecycle.events import Event, Evicted, LeaseReleased, LeaseRequested, MemoryReserved
from handler_host.lifecycle.state import HandlerState, WorkerPhase
from handler_host.lifecycle.transitions import step
from handler_host.memory.budget import MemoryEstimate
from handler_host.memory.eviction import Candidate
from handler_host.memory.ledger import Key
from handler_host.memory.place import PlaceReport
from handler_host.memory.places import PlacesBudget
from handler_host.plugin.errors import MemoryBudget
from handler_host.workers.events import WorkerExited, WorkerReady, WorkerStartFailed

MB = 1024**2

POLICY = HandlerPolicy(idle_after=None)
ESTIMATES = (20, 40, 40, 60, 80, 150)
"""Megabytes that handlers need, chosen by the seed."""
PLACE_BYTES = 8 * 1024 * MB
SECONDS_BETWEEN = 0.01
WORKERS_OF_A_FULL_PLACE = 50
WAITING = 100
"""Activations that wait while all places are full."""


class Simulation:
    """Handlers on places: each dispatch is admitted, activated if necessary, and ended."""

    def __init__(self, places: int, handlers: int, rng: random.Random) -> None:
        self.states = [HandlerState() for _ in range(handlers)]
        self.evictions = 0
        self.activations = 0
        self.refused = 0
        self._now = 0.0
        self._idle_since: dict[Key, float] = {}
        self._numbers = itertools.count(1)
        sizes = [rng.choice(ESTIMATES) * MB for _ in self.states]
        self._estimates = [MemoryEstimate(size, size, "learned") for size in sizes]
        self.budget = PlacesBudget(
            "simulation",
            strategy="spread",
            headroom=0.1,
            wait=lambda: 5.0,
            candidate=self._candidate,
            is_pinned=lambda handler, generation: False,
            evict=self._evict,
        )
        self.budget.update(PlaceReport(f"place-{number}", PLACE_BYTES) for number in range(places))

    async def dispatch(self, index: int) -> None:
        """Run one dispatch of a handler from its arrival to its end."""
        self._now += SECONDS_BETWEEN
        dispatch = next(self._numbers)
        self._step(index, LeaseRequested(dispatch))
        state = self.states[index]
        worker = state.workers[-1]
        key = (str(index), worker.generation)
        if worker.phase is WorkerPhase.WAITING:
            try:
                await self.budget.reserve(*key, self._estimates[index])
            except MemoryBudget as error:
                self.refused += 1
                self._step(index, WorkerStartFailed(worker.generation, error, counts_as_failure=False))
                return
            self.activations += 1
            self._step(index, MemoryReserved(worker.generation))
            self._step(index, WorkerReady(worker.generation))
        self._idle_since.pop(key, None)
        self._step(index, LeaseReleased(dispatch))
        self._idle_since[key] = self._now

    def _candidate(self, handler: str, generation: int) -> Candidate | None:
        idle_since = self._idle_since.get((handler, generation))
        return Candidate(handler, generation, idle_since) if idle_since is not None else None

    def _evict(self, handler: str, generation: int) -> None:
        self.evictions += 1
        index = int(handler)
        self._step(index, Evicted(generation))
        self._idle_since.pop((handler, generation), None)
        self.budget.mark_leaving(handler, generation)
        # Its process exits at once; the ledger hears of it after its own decision.
        asyncio.get_running_loop().call_soon(self._exit, index, generation)

    def _exit(self, index: int, generation: int) -> None:
        self.budget.release(str(index), generation)
        self._step(index, WorkerExited(generation))

    def _step(self, index: int, event: Event) -> None:
        self.states[index], _ = step(self.states[index], event, POLICY, self._now)

    def balance(self) -> float:
        """Return the reserved bytes of the fullest place, divided by the mean of all."""
        sizes = [place.ledger.used + place.ledger.reserved for place in self.budget.places.values()]
        return max(sizes) / statistics.fmean(sizes)


def arrivals(handlers: int, count: int, rng: random.Random) -> Sequence[int]:
    """Return the handlers of ``count`` dispatches by Zipf's law."""
    weights = [1 / rank for rank in range(1, handlers + 1)]
    order = list(range(handlers))
    rng.shuffle(order)
    return rng.choices(order, weights, k=count)


def recorded(path: Path) -> tuple[int, list[int]]:
    """Return the number of handlers of a recorded pattern, and its dispatches."""
    numbers: dict[str, int] = {}
    dispatches = [numbers.setdefault(name, len(numbers)) for name in path.read_text().split()]
    return len(numbers), dispatches


async def measure(places: int, handlers: int, dispatches: Iterable[int], seed: int) -> list[object]:
    """Run a simulation; return a row of the table."""
    simulation = Simulation(places, handlers, random.Random(seed))
    costs: list[float] = []
    for index in dispatches:
        start = time.thread_time()
        await simulation.dispatch(index)
        costs.append((time.thread_time() - start) * 1e6)
    return [
        places,
        handlers,
        len(costs),
        *costs_of(costs),
        simulation.activations,
        simulation.evictions,
        simulation.refused,
        f"{simulation.balance():.2f}",
    ]


async def measure_full(places: int, resources: dict[str, float], decisions: int) -> list[object]:
    """Keep all places full, and activations waiting; return a row of the table."""
    budget = PlacesBudget(
        "simulation",
        strategy="pack",
        headroom=0.0,
        wait=lambda: 3600.0,
        candidate=lambda handler, generation: None,
        is_pinned=lambda handler, generation: False,
        evict=lambda handler, generation: None,
    )
    amount = PLACE_BYTES // WORKERS_OF_A_FULL_PLACE
    total = {name: needed * WORKERS_OF_A_FULL_PLACE for name, needed in resources.items()}
    budget.update(PlaceReport(f"place-{number}", PLACE_BYTES, 0, total) for number in range(places))
    estimate = MemoryEstimate(amount, amount, "learned", resources=resources)
    workers = places * WORKERS_OF_A_FULL_PLACE
    for number in range(workers):
        await budget.reserve(str(number), 1, estimate)
    names = map(str, itertools.count(workers))
    first = itertools.islice(names, WAITING)
    waiting = deque((name, asyncio.ensure_future(budget.reserve(name, 1, estimate))) for name in first)
    running = deque(map(str, range(workers)))
    await asyncio.sleep(0)
    costs: list[float] = []
    for _ in range(decisions):
        start = time.thread_time()
        budget.release(running.popleft(), 1)
        name, task = waiting.popleft()
        await task
        running.append(name)
        name = next(names)
        waiting.append((name, asyncio.ensure_future(budget.reserve(name, 1, estimate))))
        await asyncio.sleep(0)
        costs.append((time.thread_time() - start) * 1e6)
    for _, task in waiting:
        task.cancel()
    await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)
    return [places, workers, WAITING, ", ".join(resources) or "none", *costs_of(costs)]


def costs_of(costs: list[float]) -> tuple[str, str]:
    """Return the mean and the 99th percentile."""
    return f"{statistics.fmean(costs):.0f}", f"{sorted(costs)[len(costs) * 99 // 100]:.0f}"


def cases(options: argparse.Namespace) -> Iterator[tuple[int, int, Sequence[int]]]:
    for places in options.places:
        if options.arrivals is not None:
            yield places, *recorded(options.arrivals)
            continue
        for handlers in options.handlers:
            yield places, handlers, arrivals(handlers, options.dispatches, random.Random(options.seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--handlers", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--dispatches", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--arrivals", type=Path, help="file with one handler a line, in the order of its dispatches")
    options = parser.parse_args()
    rows = [asyncio.run(measure(*case, options.seed)) for case in cases(options)]
    print(*header(), sep="\n")
    columns = (
        "places",
        "handlers",
        "dispatches",
        "mean µs",
        "p99 µs",
        "activations",
        "evictions",
        "refused",
        "balance",
    )
    notes = (
        "balance: reserved bytes of the fullest place, divided by the mean",
        f"seed {options.seed}, {PLACE_BYTES // MB} MB a place",
    )
    print_table("Decisions", columns, rows, notes)
    full = [
        asyncio.run(measure_full(places, resources, 2000))
        for resources in ({}, {"GPU": 1.0})
        for places in options.places
    ]
    print_table("Decisions on full machines", ("places", "workers", "waiting", "resources", "mean µs", "p99 µs"), full)


if __name__ == "__main__":
    main()
