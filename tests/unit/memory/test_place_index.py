"""The index of places: what it finds is what a look at all of them would find."""

from __future__ import annotations

import random

from handler_host.memory.place_index import MEMORY, PlaceIndex


def test_a_search_finds_all_that_have_enough_after_any_changes() -> None:
    rng, index = random.Random(3), PlaceIndex()
    places: dict[str, dict[str, float]] = {}
    for _ in range(500):
        name = f"place-{rng.randrange(12)}"
        if rng.random() < 0.2:
            places.pop(name, None)
            index.discard(name)
        else:
            places[name] = {MEMORY: rng.randrange(10), **({"GPU": rng.randrange(3)} if rng.random() < 0.5 else {})}
            index.set(name, places[name])
        needs = {MEMORY: rng.randrange(10), **({"GPU": rng.randrange(1, 3)} if rng.random() < 0.5 else {})}
        expected = {
            name
            for name, amounts in places.items()
            if all(amounts.get(needed, 0) >= amount for needed, amount in needs.items())
        }
        found = list(index.search(needs, largest_first=rng.random() < 0.5, turn=rng.randrange(99)))
        assert (len(found), set(found)) == (len(expected), expected)


def test_the_order_is_by_amount_and_each_turn_starts_elsewhere() -> None:
    index = PlaceIndex()
    for name, amount in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        index.set(name, {MEMORY: amount})
    assert list(index.search({MEMORY: 0})) == ["b", "c", "a"]
    assert list(index.search({MEMORY: 2}, largest_first=True)) == ["a", "c"]
    assert list(index.search({MEMORY: 0}, turn=4)) == ["c", "a", "b"]
