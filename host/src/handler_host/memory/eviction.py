"""Choice of the idle workers to evict: as few as free enough, the least recently used of such sets. Pure.

The ledger decides when to evict; ``HandlerController.evictable_since`` decides which workers may be evicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """An idle worker that could be evicted."""

    handler: str
    generation: int
    idle_since: float
    """On the monotonic clock; the smallest is the least recently used."""
    is_surplus: bool = False
    """Whether another worker of its handler stays: its eviction costs no activation later."""


class Eviction(NamedTuple):
    """A candidate, and the bytes that its eviction frees."""

    handler: str
    generation: int
    size: int
    is_surplus: bool = False


def choose_evictions(evictable: Sequence[Eviction], missing: int) -> list[Eviction] | None:
    """Return the evictions that free ``missing`` bytes, of as few handlers' last workers as possible.

    ``evictable`` has the least recently used first. None if all of them would not suffice.
    """
    surplus = [eviction for eviction in evictable if eviction.is_surplus]
    others = [eviction for eviction in evictable if not eviction.is_surplus]
    chosen = minimal_evictions(others, missing - sum(eviction.size for eviction in surplus))
    if chosen is None:
        return None
    # The others may free more than the rest: then fewer surplus workers suffice.
    return [*(minimal_evictions(surplus, missing - sum(eviction.size for eviction in chosen)) or ()), *chosen]


def minimal_evictions(evictable: Sequence[Eviction], missing: int) -> list[Eviction] | None:
    """Return the smallest number of evictions that free ``missing`` bytes, the least recently used of such sets.

    ``evictable`` has the least recently used first. None if all of them would not suffice.
    """
    if missing <= 0:
        return []
    largest: list[Eviction] = []
    freed = 0
    for eviction in sorted(evictable, key=lambda eviction: eviction.size, reverse=True):
        largest.append(eviction)
        freed += eviction.size
        if freed >= missing:
            break
    else:
        return None
    # From the largest ones, which are as few as possible, to those used least recently: each in its turn takes the
    # place of the smallest that is still planned, as long as the set still suffices.
    count, planned = len(largest), set(largest)
    chosen: list[Eviction] = []
    for eviction in evictable:
        if eviction in planned:
            planned.discard(eviction)
        else:
            while largest[-1] not in planned:
                largest.pop()
            if freed - largest[-1].size + eviction.size < missing:
                continue
            freed += eviction.size - largest[-1].size
            planned.discard(largest.pop())
        chosen.append(eviction)
        if len(chosen) == count:
            break
    return chosen
