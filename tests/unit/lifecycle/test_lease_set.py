"""A set of leases keeps its value, whatever is made of it later, and costs the same for any number of leases."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from handler_host.lifecycle.lease_set import NO_LEASES, LeaseSet

numbers = st.integers(0, 12)
changes = st.lists(st.tuples(st.booleans(), numbers, st.integers(0, 40)), max_size=60)


@given(changes)
def test_every_version_keeps_its_value(changes: list[tuple[bool, int, int]]) -> None:
    """Each change starts from any version made so far, not only from the newest as in a state machine."""
    versions: list[tuple[LeaseSet, frozenset[int]]] = [(NO_LEASES, frozenset())]
    for adds, number, origin in changes:
        leases, model = versions[origin % len(versions)]
        if adds:
            versions.append((leases.including(number), model | {number}))
        else:
            versions.append((leases.without(number), model - {number}))
        assert set(versions[-1][0]) == versions[-1][1]
    for leases, model in versions:
        assert set(leases) == model
        assert len(leases) == len(model)
        assert sorted(leases) == sorted(model)
        assert all((number in leases) is (number in model) for number in range(13))


def test_no_change_returns_the_same_set() -> None:
    leases = LeaseSet((1, 2))
    assert leases.including(1) is leases
    assert leases.without(3) is leases
    assert LeaseSet((1,)).without(1) is NO_LEASES


def test_a_change_copies_no_members() -> None:
    """The newest version owns the one table; its predecessor keeps a single number."""
    before = LeaseSet(range(1000))
    after = before.including(1000)
    assert before._members is None
    assert after._members is not None
    assert sys.getsizeof(before) < 100
    assert (len(before), len(after)) == (1000, 1001)
