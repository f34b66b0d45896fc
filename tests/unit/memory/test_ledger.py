"""The accounts of the budget: which request is granted, which worker is evicted, and never more than available."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host.memory.eviction import Candidate, Eviction, choose_evictions, minimal_evictions
from handler_host.memory.ledger import Ledger, Request


class World:
    """A ledger of 1000 bytes, of which the host uses 100, and its environment."""

    def __init__(self) -> None:
        self.idle: dict[str, float] = {}
        self.pins: list[tuple[str, int]] = []
        self.evicted: list[str] = []
        self.outcomes: dict[str, bool] = {}
        self.ledger = Ledger(1000, candidates=self.candidates, evict=self.evict, pinned=lambda: self.pins)
        self.ledger.measure(100, 0, {}, {})

    def candidates(self) -> list[Candidate]:
        return [Candidate(name, 1, since) for name, since in self.idle.items()]

    def evict(self, name: str, generation: int) -> None:
        self.evicted.append(name)
        del self.idle[name]
        self.ledger.mark_leaving(name, generation)

    def ask(self, name: str, amount: int, minimum: int | None = None) -> Request:
        def decide(granted: bool) -> None:
            self.outcomes[name] = granted

        request = Request(name, 1, amount, amount if minimum is None else minimum, decide)
        self.ledger.request(request)
        return request

    def resident(self, name: str, size: int, idle_since: float | None = None) -> None:
        """Add a ready handler, idle since then or busy."""
        self.ask(name, size)
        assert self.outcomes.pop(name)
        self.ledger.measure(100, 0, {(name, 1): size}, {(name, 1): size})
        if idle_since is not None:
            self.idle[name] = idle_since


def test_request_that_fits_is_granted_and_counts_at_once() -> None:
    world = World()
    world.ask("a", 600)
    assert world.outcomes == {"a": True}
    assert (world.ledger.used, world.ledger.reserved, world.ledger.available) == (100, 600, 300)
    world.ledger.measure(100, 0, {("a", 1): 250}, {})
    assert (world.ledger.used, world.ledger.reserved, world.ledger.available) == (350, 350, 300)


def test_a_ready_worker_counts_with_its_usual_size() -> None:
    world = World()
    world.ask("a", 600)
    world.ledger.measure(100, 0, {("a", 1): 250}, {("a", 1): 400})
    assert (world.ledger.reserved, world.ledger.available) == (150, 500)
    world.ledger.measure(100, 0, {("a", 1): 700}, {("a", 1): 400})
    assert (world.ledger.reserved, world.ledger.available) == (0, 200)


def test_a_measurement_of_an_exited_worker_is_ignored() -> None:
    world = World()
    world.resident("a", 300)
    world.ledger.release("a", 1)
    world.ledger.measure(100, 0, {("a", 1): 300}, {("a", 1): 300})
    assert world.ledger.available == 900


def test_memory_freed_for_the_first_goes_to_no_later_request() -> None:
    world = World()
    world.resident("victim", 500, idle_since=1.0)
    world.ask("large", 800)
    world.ask("small", 100)
    assert world.evicted == ["victim"]
    assert world.outcomes == {}
    world.ledger.release("victim", 1)
    assert world.outcomes == {"large": True, "small": True}


def test_a_later_request_passes_one_that_no_eviction_helps() -> None:
    world = World()
    world.resident("busy", 500)
    world.resident("idle", 100, idle_since=1.0)
    world.ask("large", 700)
    world.ask("small", 200)
    # No worker is evicted in vain.
    assert world.evicted == []
    assert world.outcomes == {"small": True}
    world.ledger.release("busy", 1)
    assert world.evicted == ["idle"]
    world.ledger.release("idle", 1)
    assert world.outcomes == {"small": True, "large": True}


def test_withdrawn_request_admits_the_next() -> None:
    world = World()
    world.resident("busy", 500)
    first = world.ask("first", 500)
    world.ask("second", 500)
    assert world.outcomes == {}
    world.ledger.release("busy", 1)
    assert world.outcomes == {"first": True}
    world.ledger.withdraw(first)
    assert world.outcomes == {"first": True, "second": True}


def test_request_over_the_limit_less_pinned_workers_is_refused() -> None:
    world = World()
    world.ask("huge", 901)
    assert world.outcomes == {"huge": False}
    world.resident("pinned", 300)
    world.pins = [("pinned", 1)]
    world.ask("large", 700)
    assert world.outcomes["large"] is False
    assert world.ledger.queue == []


def test_worker_below_its_peak_gets_the_whole_budget() -> None:
    world = World()
    world.resident("idle", 200, idle_since=1.0)
    world.ask("spiky", 5000, minimum=300)
    assert world.evicted == ["idle"]
    world.ledger.release("idle", 1)
    assert world.outcomes == {"spiky": True}
    assert world.ledger.available == 0


def test_a_request_that_fits_only_alone_may_use_the_headroom() -> None:
    world = World()
    world.ledger.usable = 800
    world.resident("idle", 300, idle_since=1.0)
    world.ask("large", 850)
    assert world.evicted == ["idle"]
    assert world.outcomes == {}
    world.ledger.release("idle", 1)
    assert world.outcomes == {"large": True}
    assert (world.ledger.available, world.ledger.used + world.ledger.reserved) == (-150, 950)
    # No other request uses the headroom.
    world.ask("small", 10)
    assert "small" not in world.outcomes
    world.ledger.release("large", 1)
    assert world.outcomes["small"]


def test_a_request_that_exceeds_even_the_headroom_is_refused() -> None:
    world = World()
    world.ledger.usable = 800
    world.ask("huge", 901)
    assert world.outcomes == {"huge": False}


def test_a_request_is_refused_when_the_limit_falls_below_it() -> None:
    world = World()
    world.resident("busy", 500)
    world.ask("waits", 800)
    assert world.outcomes == {}
    world.ledger.limit = world.ledger.usable = 600
    world.ledger.schedule()
    assert world.outcomes == {"waits": False}


def test_nothing_is_granted_under_pressure() -> None:
    world = World()
    world.ledger.under_pressure = True
    world.ask("a", 100)
    assert world.outcomes == {}
    world.ledger.under_pressure = False
    world.ledger.schedule()
    assert world.outcomes == {"a": True}


def test_external_usage_causes_no_final_refusal() -> None:
    world = World()
    world.ledger.measure(100, 500, {}, {})
    world.ask("a", 600)
    assert world.outcomes == {}
    world.ledger.measure(100, 0, {}, {})
    assert world.outcomes == {"a": True}


class TestRelief:
    def test_an_excess_costs_the_fewest_idle_workers(self) -> None:
        world = World()
        for since, name in enumerate(("old", "new")):
            world.resident(name, 200, idle_since=float(since))
        world.resident("busy", 400)
        world.ledger.measure(100, 0, {("busy", 1): 600}, {})
        world.ledger.evict_excess()
        assert world.evicted == ["old"]
        # Memory of a leaving worker is not freed twice.
        world.ledger.evict_excess()
        assert world.evicted == ["old"]

    def test_all_idle_workers_go_if_they_do_not_suffice(self) -> None:
        world = World()
        world.resident("idle", 100, idle_since=0.0)
        world.resident("busy", 400)
        world.ledger.measure(100, 0, {("busy", 1): 2000}, {})
        world.ledger.evict_excess()
        assert world.evicted == ["idle"]

    def test_a_reservation_alone_evicts_nothing(self) -> None:
        world = World()
        world.resident("idle", 400, idle_since=0.0)
        world.ledger.measure(100, 0, {("idle", 1): 400}, {("idle", 1): 2000})
        world.ledger.evict_excess()
        assert world.evicted == []

    def test_under_pressure_they_go_one_by_one(self) -> None:
        world = World()
        for since, name in enumerate(("old", "new")):
            world.resident(name, 200, idle_since=float(since))
        world.ledger.evict_one()
        world.ledger.evict_one()
        assert world.evicted == ["old"]
        world.ledger.release("old", 1)
        world.ledger.evict_one()
        assert world.evicted == ["old", "new"]


def evictions(*sizes: int) -> list[Eviction]:
    return [Eviction(f"h{number}", 1, size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "missing", "chosen"),
    [
        ((10, 10, 100), 100, [2]),
        ((60, 50, 100), 100, [2]),
        ((60, 50, 100), 101, [0, 1]),
        ((60, 50, 100), 111, [0, 2]),
        ((60, 50, 100), 60, [0]),
        ((60, 50, 100), 0, []),
        ((60, 50, 100), 210, [0, 1, 2]),
    ],
)
def test_the_fewest_that_suffice_are_chosen(sizes: tuple[int, ...], missing: int, chosen: list[int]) -> None:
    found = minimal_evictions(evictions(*sizes), missing)
    assert found is not None
    assert sorted(int(one.handler[1:]) for one in found) == chosen


def test_none_if_all_do_not_suffice() -> None:
    assert minimal_evictions(evictions(10, 20), 31) is None
    assert minimal_evictions([], 1) is None


@given(st.lists(st.integers(1, 50), max_size=7), st.integers(0, 200))
def test_no_smaller_and_no_older_set_suffices(sizes: list[int], missing: int) -> None:
    candidates = evictions(*sizes)
    found = minimal_evictions(candidates, missing)
    sets = [
        chosen
        for count in range(len(sizes) + 1)
        for chosen in itertools.combinations(range(len(sizes)), count)
        if sum(sizes[number] for number in chosen) >= missing
    ]
    if found is None:
        assert sets == []
    else:
        # combinations come by number and then by age.
        assert tuple(sorted(int(one.handler[1:]) for one in found)) == sets[0]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (10, ["a2"]),
        (30, ["a2", "a3"]),
        (90, ["a2", "b1"]),
        (100, ["a2", "a3", "b1"]),
        (70, ["b1"]),  # the last worker of another handler is needed; then the surplus ones are not
        (200, None),
    ],
)
def test_surplus_workers_go_before_the_last_one_of_a_handler(missing: int, expected: list[str] | None) -> None:
    evictable = [Eviction("b", 1, 70), Eviction("a", 2, 20, True), Eviction("a", 3, 20, True)]
    chosen = choose_evictions(evictable, missing)
    names = [f"{entry.handler}{entry.generation}" for entry in chosen] if chosen is not None else None
    assert names == expected
