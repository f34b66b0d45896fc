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
async def test_a_report_that_cannot_be_true_is_not_used(report: PlaceReport, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    for _ in range(2):  # the driver reports again and again, the log has it once
        world.budget.update([report, PlaceReport("honest", 50)])
    (record,) = caplog.records
    assert "place liar of launcher " in record.getMessage()
    assert "correct the size" in record.getMessage()
    assert await world.reserve("a", 10) == "honest"
    assert list(world.budget.places) == ["honest"]


async def test_the_place_with_the_fewest_idle_workers_is_cleared() -> None:
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
        world.budget.mark_idle("b", 1)
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


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_activations_get_their_place_in_order_of_arrival() -> None:
    world = World(wait=5.0)
    world.budget.update([PlaceReport("one", 100)])
    await world.reserve("busy", 60)
    await world.reserve("small", 30)
    waiting = [asyncio.ensure_future(world.reserve(name, 60)) for name in ("first", "second")]
    await settle()
    world.budget.release("busy", 1)
    late = asyncio.ensure_future(world.reserve("late", 50))
    await settle()
    assert [task.done() for task in (*waiting, late)] == [True, False, False]
    assert [entry.handler for entry in world.budget.waiting] == ["second", "late"]
    world.budget.release("first", 1)
    await settle()
    assert [task.done() for task in (*waiting, late)] == [True, True, False]
    late.cancel()
    await settle()
    assert world.budget.waiting == []


async def test_what_is_freed_for_the_first_goes_to_no_other() -> None:
    world = World("spread", wait=5.0)
    world.leaves_at_once = False
    world.budget.update([PlaceReport("one", 100), PlaceReport("two", 100)])
    for name, idle_since in (("a", 1.0), ("b", 2.0)):
        await world.reserve(name, 50, idle_since=idle_since)
    for name in ("c", "d"):
        await world.reserve(name, 40)
    first = asyncio.ensure_future(world.reserve("first", 60))
    await settle()
    (evicted,) = world.evicted
    cleared = world.budget.place_of(evicted, 1)
    later = asyncio.ensure_future(world.reserve("later", 10))
    await settle()
    assert later.result() != cleared
    world.budget.release(evicted, 1)
    await settle()
    assert first.result() == cleared


async def test_later_requests_are_granted_if_the_first_cannot_be() -> None:
    world = World(wait=5.0)
    world.budget.update([PlaceReport("one", 100)])
    await world.reserve("busy", 80)
    first = asyncio.ensure_future(world.reserve("first", 60))
    await settle()
    assert await world.reserve("small", 15) == "one"
    first.cancel()


async def test_growth_waits_for_nobody_and_overtakes_nobody() -> None:
    world = World(wait=5.0)
    world.budget.update([PlaceReport("one", 100)])
    await world.reserve("busy", 80)
    estimate = MemoryEstimate(60, 60, "learned")
    with pytest.raises(MemoryBudget):
        await world.budget.reserve("surplus", 2, estimate, may_wait=False)
    world.idle["busy", 1] = 1.0
    growth = asyncio.ensure_future(world.budget.reserve("surplus", 2, estimate, may_wait=False))
    for _ in range(3):
        await asyncio.sleep(0)
        world.budget.mark_idle("busy", 1)
    assert isinstance(growth.exception(), MemoryBudget)
    assert world.evicted == []
    world.idle.clear()
    first = asyncio.ensure_future(world.reserve("first", 60))
    await settle()
    with pytest.raises(MemoryBudget):
        await world.budget.reserve("surplus", 3, MemoryEstimate(10, 10, "learned"), may_wait=False)
    first.cancel()


async def test_activation_cancelled_as_it_is_granted_holds_nothing() -> None:
    world = World(wait=5.0)
    world.budget.update([PlaceReport("one", 100)])
    await world.reserve("busy", 80)
    first = asyncio.ensure_future(world.reserve("first", 60))
    await settle()
    world.budget.release("busy", 1)
    first.cancel()
    await settle()
    assert (first.cancelled(), world.budget.place_of("first", 1)) == (True, None)
    assert await world.reserve("next", 100) == "one"


async def test_what_can_ever_fit_follows_the_size_of_the_machine() -> None:
    world = World(wait=5.0)
    world.budget.update([PlaceReport("one", 100)])
    await world.reserve("busy", 80)
    waiting = asyncio.ensure_future(world.reserve("first", 60))
    await settle()
    world.budget.update([PlaceReport("one", 50)])
    with pytest.raises(ExceedsMemoryLimit):
        await waiting


async def test_a_resource_that_is_being_freed_needs_no_second_eviction() -> None:
    world = World(wait=5.0)
    world.leaves_at_once = False
    world.budget.update([PlaceReport(name, 100, 0, {"GPU": 1.0}) for name in ("one", "two")])
    for name, idle_since in (("a", 1.0), ("b", 2.0)):
        await world.reserve(name, 10, idle_since=idle_since, GPU=1.0)
    waiting = asyncio.ensure_future(world.reserve("c", 10, GPU=1.0))
    await settle()
    world.budget.mark_idle("b", 1)
    assert world.evicted == ["a"]
    world.budget.release("a", 1)
    await waiting


@pytest.mark.parametrize("resources", [{}, {"GPU": 1.0}], ids=["memory", "resource"])
async def test_full_machines_are_checked_again_with_an_idle_worker(resources: dict[str, float]) -> None:
    world = World(wait=5.0)
    world.budget.update([PlaceReport(f"place-{number}", 100, 0, {"GPU": 1.0}) for number in range(50)])
    for number in range(50):
        await world.reserve(f"busy-{number}", 80, **resources)
    looked_at: list[str] = []

    def candidate(handler: str, generation: int) -> Candidate | None:
        looked_at.append(handler)
        return world.candidate(handler, generation)

    world.budget._candidate = candidate
    waiting = [asyncio.ensure_future(world.reserve(f"waiting-{number}", 80, **resources)) for number in range(3)]
    await settle()
    assert len(set(looked_at)) == 50
    looked_at.clear()
    waiting += [asyncio.ensure_future(world.reserve(f"late-{number}", 80, **resources)) for number in range(20)]
    await settle()
    assert looked_at == []
    world.idle["busy-7", 1] = 1.0
    world.budget.mark_idle("busy-7", 1)
    await settle()
    assert set(looked_at) == {"busy-7", "waiting-0"}
    assert (world.evicted, waiting[0].done(), waiting[1].done()) == (["busy-7"], True, False)
    for task in waiting:
        task.cancel()


async def test_without_a_machine_the_refusal_says_so() -> None:
    with pytest.raises(MemoryBudget, match="no machine yet") as refusal:
        await World().reserve("a", 1)
    assert refusal.value.retry_after


async def test_order_of_places_follows_their_ledgers() -> None:
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
