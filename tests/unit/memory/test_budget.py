"""Reservations wait for a bounded time, and a cancelled one leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from handler_host.memory.budget import Budget, ExceedsMemoryLimit, MemoryEstimate
from handler_host.memory.eviction import Candidate
from handler_host.plugin.errors import MemoryBudget
from tests.support import within


def budget(wait: float = 600.0, seconds_until_available: float = 7.0) -> Budget:
    """Return a budget of 1000 bytes, of which the host uses 100; no worker is ever idle."""

    def no_candidates() -> list[Candidate]:
        return []

    made = Budget(
        1000,
        wait=wait,
        candidates=no_candidates,
        evict=lambda *_: None,
        seconds_until_available=lambda: seconds_until_available,
    )
    made.ledger.measure(100, 0, {}, {})
    return made


def expected(amount: int) -> MemoryEstimate:
    return MemoryEstimate(amount, amount, "default")


async def test_a_waiting_request_gets_released_memory() -> None:
    made = budget()
    await made.reserve("first", 1, expected(600))
    second = asyncio.ensure_future(made.reserve("second", 1, expected(600)))
    await asyncio.sleep(0)
    assert [(one.handler, one.amount) for one in made.waiting] == [("second", 600)]
    made.ledger.release("first", 1)
    await within(second)
    assert made.waiting == []
    assert made.ledger.available == 300


async def test_a_request_that_waited_too_long_gets_the_figures() -> None:
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


async def test_a_request_over_the_limit_is_refused_at_once() -> None:
    made = budget()
    with pytest.raises(ExceedsMemoryLimit) as refusal:
        await made.reserve("huge", 1, expected(901))
    assert not refusal.value.retryable
    assert refusal.value.retry_after is None
    assert made.waiting == []


async def test_a_cancelled_request_leaves_the_queue() -> None:
    made = budget()
    await made.reserve("first", 1, expected(600))
    second = asyncio.ensure_future(made.reserve("second", 1, expected(600)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    assert made.ledger.queue == []
    made.ledger.release("first", 1)
    assert made.ledger.available == 900


async def test_a_request_cancelled_at_its_grant_releases_the_memory() -> None:
    made = budget()
    await made.reserve("first", 1, expected(600))
    second = asyncio.ensure_future(made.reserve("second", 1, expected(600)))
    third = asyncio.ensure_future(made.reserve("third", 1, expected(600)))
    await asyncio.sleep(0)
    # Granted now; its task learns it only in the loop's next iteration.
    made.ledger.release("first", 1)
    second.cancel()
    await within(third)
    assert second.cancelled()
    assert made.ledger.size_of("second", 1) == 0
    assert made.ledger.size_of("third", 1) == 600
