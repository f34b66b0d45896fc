"""Waiting for room: for a bounded time, and giving up leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from handler_host.memory.budget import Budget, ExceedsMemoryLimit, MemoryEstimate
from handler_host.memory.ledger import Candidate
from handler_host.plugin.errors import MemoryBudget
from tests.support import within


def budget(wait: float = 600.0, chance: float = 7.0) -> Budget:
    """A budget of 1000 bytes, of which the host takes 100; nobody is ever idle."""

    def nobody() -> list[Candidate]:
        return []

    made = Budget(1000, wait=wait, candidates=nobody, evict=lambda *_: None, seconds_until_available=lambda: chance)
    made.ledger.measure(100, 0, {}, {})
    return made


def expected(amount: int) -> MemoryEstimate:
    return MemoryEstimate(amount, amount, "default")


async def test_who_waits_gets_the_room_that_is_given_back() -> None:
    made = budget()
    await made.reserve("first", 1, expected(600))
    second = asyncio.ensure_future(made.reserve("second", 1, expected(600)))
    await asyncio.sleep(0)
    assert [(one.handler, one.amount) for one in made.waiting] == [("second", 600)]
    made.ledger.release("first", 1)
    await within(second)
    assert made.waiting == []
    assert made.ledger.available == 300


async def test_who_has_waited_in_vain_is_told_the_numbers_and_when_to_come_again() -> None:
    made = budget(wait=0.01)
    await made.reserve("first", 1, expected(600))
    with pytest.raises(MemoryBudget) as refusal:
        await within(made.reserve("second", 1, expected(600)))
    assert refusal.value.retryable
    assert refusal.value.retry_after == 7.0
    assert refusal.value.details == {
        "needed": 600,
        "needed_source": "default",
        "free": 300,
        "usable": 1000,
        "used": 100,
        "reserved": 600,
    }
    assert made.refused == 1
    assert made.waiting == []
    assert made.ledger.queue == []


async def test_what_can_never_be_is_told_at_once() -> None:
    made = budget()
    with pytest.raises(ExceedsMemoryLimit) as refusal:
        await made.reserve("huge", 1, expected(901))
    assert not refusal.value.retryable
    assert refusal.value.retry_after is None
    assert made.waiting == []


async def test_cancelled_while_it_waits_it_leaves_the_queue() -> None:
    made = budget()
    await made.reserve("first", 1, expected(600))
    second = asyncio.ensure_future(made.reserve("second", 1, expected(600)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    assert made.ledger.queue == []
    made.ledger.release("first", 1)
    assert made.ledger.available == 900


async def test_cancelled_in_the_moment_of_the_grant_it_gives_the_room_back_to_the_next() -> None:
    made = budget()
    await made.reserve("first", 1, expected(600))
    second = asyncio.ensure_future(made.reserve("second", 1, expected(600)))
    third = asyncio.ensure_future(made.reserve("third", 1, expected(600)))
    await asyncio.sleep(0)
    # Granted now; told to its task only in the loop's next turn.
    made.ledger.release("first", 1)
    second.cancel()
    await within(third)
    assert second.cancelled()
    assert made.ledger.size_of("second", 1) == 0
    assert made.ledger.size_of("third", 1) == 600
