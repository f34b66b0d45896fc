"""The choice of a place: memory, resources, evictions, and reports that cannot be true."""

from __future__ import annotations

import asyncio
import random

import pytest

from handler_host.memory.budget import ExceedsMemoryLimit, MemoryEstimate
from handler_host.memory.eviction import Candidate
from handler_host.memory.place import PlaceReport
from handler_host.memory.places import PlacesBudget
from handler_host.plugin.errors import MemoryBudget


class World:
    """A budget whose workers are idle since the time in ``idle``, and leave at once when they are evicted."""

    def __init__(self, strategy: str = "pack", wait: float = 0.02) -> None:
        self.idle: dict[tuple[str, int], float] = {}
        self.evicted: list[str] = []
        self.leaves_at_once = True
        self.budget = PlacesBudget(
            "test",
            strategy="spread" if strategy == "spread" else "pack",
            headroom=0,
            wait=lambda: wait,
            candidate=self.candidate,
            is_pinned=lambda handler, generation: False,
            evict=self.evict,
        )

    def candidate(self, handler: str, generation: int) -> Candidate | None:
        idle_since = self.idle.get((handler, generation))
        return Candidate(handler, generation, idle_since) if idle_since is not None else None

    def evict(self, handler: str, generation: int) -> None:
        self.evicted.append(handler)
        self.idle.pop((handler, generation))
        self.budget.mark_leaving(handler, generation)
        if self.leaves_at_once:
            asyncio.get_running_loop().call_soon(self.budget.release, handler, generation)

    async def reserve(self, handler: str, size: int, idle_since: float | None = None, **resources: float) -> str:
        await self.budget.reserve(handler, 1, MemoryEstimate(size, size, "learned", resources=resources))
        if idle_since is not None:
            self.idle[handler, 1] = idle_since
        place = self.budget.place_of(handler, 1)
        assert place is not None
        return place


@pytest.mark.parametrize(("strategy", "place"), [("pack", "small"), ("spread", "large")])
async def test_the_strategy_chooses_among_places_that_have_enough(strategy: str, place: str) -> None:
    world = World(strategy)
    world.budget.update([PlaceReport("tiny", 50), PlaceReport("small", 100), PlaceReport("large", 200)])
    assert await world.reserve("a", 80) == place


async def test_others_usage_counts_and_a_place_that_left_takes_nothing() -> None:
    world = World()
    world.budget.update([PlaceReport("one", 100, 50), PlaceReport("two", 100)])
    assert await world.reserve("a", 80) == "two"
    world.budget.update([PlaceReport("one", 100, 50)])
    assert await world.reserve("b", 40) == "one"
    world.budget.release("a", 1)
    assert world.budget.place_of("a", 1) is None


async def test_a_place_that_comes_back_still_counts_its_workers() -> None:
    """Its launcher was away for a moment: the workers of before may run until their exits are known."""
    world = World()
    world.budget.update([PlaceReport("one", 100)])
    await world.reserve("a", 80)
    world.budget.update([])
    world.budget.update([PlaceReport("one", 100)])
    with pytest.raises(MemoryBudget):
        await world.reserve("b", 80)
    world.budget.release("a", 1)
    assert await world.reserve("b", 80) == "one"


@pytest.mark.parametrize(
    "report",
    [
        PlaceReport("liar", 0),
        PlaceReport("liar", 2**60),
        PlaceReport("liar", 100, -5),
        PlaceReport("liar", 100, 0, {"GPU": float("nan")}),
    ],
)
async def test_a_report_that_cannot_be_true_is_not_used(report: PlaceReport) -> None:
    world = World()
    world.budget.update([report, PlaceReport("honest", 50)])
    assert await world.reserve("a", 10) == "honest"
    assert list(world.budget.places) == ["honest"]


async def test_the_place_with_the_fewest_and_oldest_idle_workers_is_cleared() -> None:
    world = World()
    world.budget.update([PlaceReport("one", 100), PlaceReport("two", 100)])
    first = await world.reserve("a", 60, idle_since=2.0)
    await world.reserve("b", 60, idle_since=1.0)
    second = await world.reserve("c", 70)
    assert world.evicted == ["b"]
    assert second != first


async def test_an_eviction_that_takes_long_starts_no_other() -> None:
    world = World(wait=0.2)
    world.leaves_at_once = False
    world.budget.update([PlaceReport(name, 100) for name in ("one", "two", "three")])
    for name, idle_since in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        await world.reserve(name, 60, idle_since=idle_since)
    waiting = asyncio.ensure_future(world.reserve("d", 70))
    for _ in range(5):
        await asyncio.sleep(0.01)
        world.budget.reconsider()
    assert world.evicted == ["a"]
    world.budget.release("a", 1)
    await waiting


async def test_a_resource_is_freed_by_the_worker_that_holds_it() -> None:
    world = World()
    world.budget.update([PlaceReport("one", 1000, 0, {"GPU": 1.0})])
    await world.reserve("other", 10, idle_since=1.0)
    await world.reserve("holder", 10, idle_since=2.0, GPU=1.0)
    assert await world.reserve("next", 10, GPU=1.0) == "one"
    assert world.evicted == ["holder"]
    with pytest.raises(MemoryBudget, match="1 GPU"):
        await world.reserve("late", 10, GPU=1.0)
    with pytest.raises(ExceedsMemoryLimit, match="2 GPU"):
        await world.reserve("never", 10, GPU=2.0)


async def test_a_resource_that_others_hold_is_worth_a_wait() -> None:
    world = World()
    world.budget.update([PlaceReport("one", 100, 0, {"GPU": 1.0}, {"GPU": 1.0})])
    with pytest.raises(MemoryBudget) as refusal:
        await world.reserve("a", 10, GPU=1.0)
    assert refusal.value.retryable
    world.budget.update([PlaceReport("one", 100, 0, {"GPU": 1.0})])
    assert await world.reserve("a", 10, GPU=1.0) == "one"


async def test_without_a_machine_the_refusal_says_so() -> None:
    with pytest.raises(MemoryBudget, match="no machine yet") as refusal:
        await World().reserve("a", 1)
    assert refusal.value.retry_after


async def test_the_order_of_places_is_that_of_their_ledgers_after_any_changes() -> None:
    world, rng = World("spread"), random.Random(7)
    world.budget.update([PlaceReport(f"p{number}", 500) for number in range(5)])
    alive: list[str] = []
    for number in range(400):
        if alive and rng.random() < 0.45:
            name = alive.pop(rng.randrange(len(alive)))
            world.budget.release(name, 1)
            continue
        size = rng.randint(1, 120)
        roomiest = max(place.ledger.available for place in world.budget.places.values())
        if size > roomiest:
            continue
        place = await world.reserve(f"h{number}", size)
        assert world.budget.places[place].ledger.available + size == roomiest
        alive.append(f"h{number}")
        if rng.random() < 0.3:
            sizes = {(name, 1): rng.randint(1, 60) for name in rng.sample(alive, min(3, len(alive)))}
            world.budget.measure(sizes, sizes)
