"""The accounts of the budget: who gets room, who has to go for it, and that nobody is given what is not there."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host.memory.ledger import Candidate, Eviction, Ledger, Request, minimal_evictions


class World:
    """A ledger of 1000 bytes, of which the host takes 100, and what it is told."""

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
        """Let a handler be ready, idle since then or busy."""
        self.ask(name, size)
        assert self.outcomes.pop(name)
        self.ledger.measure(100, 0, {(name, 1): size}, {(name, 1): size})
        if idle_since is not None:
            self.idle[name] = idle_since


def test_what_fits_is_granted_at_once_and_counts_before_it_is_measured() -> None:
    world = World()
    world.ask("a", 600)
    assert world.outcomes == {"a": True}
    assert (world.ledger.used, world.ledger.reserved, world.ledger.available) == (100, 600, 300)
    world.ledger.measure(100, 0, {("a", 1): 250}, {})
    assert (world.ledger.used, world.ledger.reserved, world.ledger.available) == (350, 350, 300)


def test_a_ready_worker_counts_with_what_it_usually_takes_even_while_it_takes_less() -> None:
    world = World()
    world.ask("a", 600)
    world.ledger.measure(100, 0, {("a", 1): 250}, {("a", 1): 400})
    assert (world.ledger.reserved, world.ledger.available) == (150, 500)
    world.ledger.measure(100, 0, {("a", 1): 700}, {("a", 1): 400})
    assert (world.ledger.reserved, world.ledger.available) == (0, 200)


def test_a_measurement_of_who_has_gone_meanwhile_counts_for_nothing() -> None:
    world = World()
    world.resident("a", 300)
    world.ledger.release("a", 1)
    world.ledger.measure(100, 0, {("a", 1): 300}, {("a", 1): 300})
    assert world.ledger.available == 900


def test_the_room_that_is_made_for_the_first_is_not_taken_by_one_behind_it() -> None:
    world = World()
    world.resident("victim", 500, idle_since=1.0)
    world.ask("large", 800)
    world.ask("small", 100)
    assert world.evicted == ["victim"]
    assert world.outcomes == {}
    world.ledger.release("victim", 1)
    assert world.outcomes == {"large": True, "small": True}


def test_one_that_fits_passes_a_first_one_for_which_all_idle_ones_would_not_do() -> None:
    world = World()
    world.resident("busy", 500)
    world.resident("idle", 100, idle_since=1.0)
    world.ask("large", 700)
    world.ask("small", 200)
    # Nobody is evicted in vain.
    assert world.evicted == []
    assert world.outcomes == {"small": True}
    world.ledger.release("busy", 1)
    assert world.evicted == ["idle"]
    world.ledger.release("idle", 1)
    assert world.outcomes == {"small": True, "large": True}


def test_who_takes_a_request_back_leaves_no_promise_and_lets_the_next_have_its_turn() -> None:
    world = World()
    world.resident("busy", 500)
    first = world.ask("first", 500)
    world.ask("second", 500)
    assert world.outcomes == {}
    world.ledger.release("busy", 1)
    assert world.outcomes == {"first": True}
    world.ledger.withdraw(first)
    assert world.outcomes == {"first": True, "second": True}


def test_what_can_never_fit_is_refused_at_once_pinned_ones_counted() -> None:
    world = World()
    world.ask("huge", 901)
    assert world.outcomes == {"huge": False}
    world.resident("pinned", 300)
    world.pins = [("pinned", 1)]
    world.ask("large", 700)
    assert world.outcomes["large"] is False
    assert world.ledger.queue == []


def test_what_ran_with_less_than_its_peak_gets_the_whole_budget_rather_than_a_refusal() -> None:
    world = World()
    world.resident("idle", 200, idle_since=1.0)
    world.ask("spiky", 5000, minimum=300)
    assert world.evicted == ["idle"]
    world.ledger.release("idle", 1)
    assert world.outcomes == {"spiky": True}
    assert world.ledger.available == 0


def test_who_fits_only_alone_and_with_the_headroom_may_have_it() -> None:
    world = World()
    world.ledger.usable = 800
    world.resident("idle", 300, idle_since=1.0)
    world.ask("large", 850)
    assert world.evicted == ["idle"]
    assert world.outcomes == {}
    world.ledger.release("idle", 1)
    assert world.outcomes == {"large": True}
    assert (world.ledger.available, world.ledger.used + world.ledger.reserved) == (-150, 950)
    # Nobody else touches the headroom.
    world.ask("small", 10)
    assert "small" not in world.outcomes
    world.ledger.release("large", 1)
    assert world.outcomes["small"]


def test_what_does_not_fit_with_the_headroom_either_is_refused() -> None:
    world = World()
    world.ledger.usable = 800
    world.ask("huge", 901)
    assert world.outcomes == {"huge": False}


def test_a_request_that_waits_is_refused_when_the_limit_falls_below_it() -> None:
    world = World()
    world.resident("busy", 500)
    world.ask("waits", 800)
    assert world.outcomes == {}
    world.ledger.limit = world.ledger.usable = 600
    world.ledger.schedule()
    assert world.outcomes == {"waits": False}


def test_nothing_is_granted_while_the_kernel_reports_a_shortage() -> None:
    world = World()
    world.ledger.under_pressure = True
    world.ask("a", 100)
    assert world.outcomes == {}
    world.ledger.under_pressure = False
    world.ledger.schedule()
    assert world.outcomes == {"a": True}


def test_what_others_hold_is_no_room_but_no_reason_to_refuse_for_ever() -> None:
    world = World()
    world.ledger.measure(100, 500, {}, {})
    world.ask("a", 600)
    assert world.outcomes == {}
    world.ledger.measure(100, 0, {}, {})
    assert world.outcomes == {"a": True}


class TestRelief:
    def test_more_used_than_there_is_costs_the_fewest_idle_ones(self) -> None:
        world = World()
        for since, name in enumerate(("old", "new")):
            world.resident(name, 200, idle_since=float(since))
        world.resident("busy", 400)
        world.ledger.measure(100, 0, {("busy", 1): 600}, {})
        world.ledger.evict_excess()
        assert world.evicted == ["old"]
        # What is on its way out is not evicted for twice.
        world.ledger.evict_excess()
        assert world.evicted == ["old"]

    def test_where_all_idle_ones_do_not_suffice_they_all_go(self) -> None:
        world = World()
        world.resident("idle", 100, idle_since=0.0)
        world.resident("busy", 400)
        world.ledger.measure(100, 0, {("busy", 1): 2000}, {})
        world.ledger.evict_excess()
        assert world.evicted == ["idle"]

    def test_a_promise_alone_costs_nobody(self) -> None:
        world = World()
        world.resident("idle", 400, idle_since=0.0)
        world.ledger.measure(100, 0, {("idle", 1): 400}, {("idle", 1): 2000})
        world.ledger.evict_excess()
        assert world.evicted == []

    def test_under_pressure_they_go_one_after_the_other(self) -> None:
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


def test_if_all_do_not_suffice_there_is_no_choice() -> None:
    assert minimal_evictions(evictions(10, 20), 31) is None
    assert minimal_evictions([], 1) is None


@given(st.lists(st.integers(1, 50), max_size=7), st.integers(0, 200))
def test_no_smaller_set_suffices_and_no_older_one_of_the_same_number(sizes: list[int], missing: int) -> None:
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
