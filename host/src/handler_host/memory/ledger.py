"""Who has how many bytes of the budget, who waits for some, and whom to evict for them: pure accounting.

No loop, no clock, no process: ``handler_host.memory.budget`` is what waits and refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

Key = tuple[str, int]
"""A handler and the number of its generation."""


class Candidate(NamedTuple):
    """An idle handler that could be evicted."""

    handler: str
    generation: int
    idle_since: float
    """On the monotonic clock; the smallest is the least recently used."""


class Eviction(NamedTuple):
    """A candidate, and the bytes that its eviction makes free."""

    handler: str
    generation: int
    size: int


class Request(msgspec.Struct, eq=False):
    """An activation that wants room.

    ``outcome`` is told once: True when the room is its own, False when it can never be.
    """

    handler: str
    generation: int
    amount: int
    """Bytes that it is expected to take."""
    minimum: int
    """Bytes that it has run with: enough where the whole budget has no more than that."""
    outcome: Callable[[bool], None]


class _Account(msgspec.Struct):
    """What is known of one generation, in bytes."""

    promised: int = 0
    measured: int = 0
    leaving: bool = False
    """On its way out: its bytes count, but come back without an eviction."""

    @property
    def size(self) -> int:
        return max(self.promised, self.measured)


class Ledger:
    """The bytes that host, fork server and workers may use together.

    ``usable`` is the limit less the headroom. Who fits beside nobody even so may have
    the headroom as well, alone: it is kept for what estimates get wrong, and a refusal
    for ever is worse than to try. ``candidates`` names the handlers that
    are idle now, ``pinned`` the generations that no eviction takes; ``evict`` begins
    to unload one, which is told back by :meth:`leaving` and :meth:`release`.
    """

    def __init__(
        self,
        usable: int,
        *,
        candidates: Callable[[], Iterable[Candidate]],
        evict: Callable[[str, int], None],
        pinned: Callable[[], Iterable[Key]] = tuple,
        limit: int | None = None,
    ) -> None:
        self.usable = usable
        self.limit = usable if limit is None else limit
        self.base = 0
        """Bytes of host and fork server."""
        self.others = 0
        """Bytes that others hold of the same limit."""
        self.under_pressure = False
        """Nothing is granted: the kernel says that memory is short."""
        self.queue: list[Request] = []
        self._candidates = candidates
        self._pinned = pinned
        self._evict = evict
        self._accounts: dict[Key, _Account] = {}

    @property
    def used(self) -> int:
        """Bytes measured: host, fork server and workers."""
        return self.base + sum(account.measured for account in self._accounts.values())

    @property
    def reserved(self) -> int:
        """Bytes promised beyond what is measured."""
        return sum(account.size - account.measured for account in self._accounts.values())

    @property
    def room(self) -> int:
        """Bytes that can still be promised; negative if the tree is over the budget."""
        return self.usable - self.used - self.reserved - self.others

    @property
    def max_grantable(self) -> int:
        """Bytes that a handler can have at most: when all have gone that can be evicted, and with the headroom."""
        return self.limit - self.base - sum(self.size_of(*key) for key in self._pinned())

    def size_of(self, handler: str, generation: int) -> int:
        """Return the bytes that a generation counts with: the larger of promised and measured."""
        account = self._accounts.get((handler, generation))
        return account.size if account is not None else 0

    def ask(self, request: Request) -> None:
        """Queue a request; it may be decided at once."""
        self.queue.append(request)
        self.look()

    def withdraw(self, request: Request) -> None:
        """Take a request back, whether it is decided or not."""
        if request in self.queue:
            self.queue.remove(request)
            self.look()
        else:
            self.release(request.handler, request.generation)

    def measure(self, base: int, others: int, workers: Mapping[Key, int], promises: Mapping[Key, int]) -> None:
        """Take a measurement of workers, and what those that are ready count with from now on, all in bytes.

        Who is not named keeps what it had.
        """
        self.base, self.others = base, others
        # A worker may have ended, and been released, while the measurement was taken.
        for key, size in workers.items():
            if key in self._accounts:
                self._accounts[key].measured = size
        for key, size in promises.items():
            if key in self._accounts:
                self._accounts[key].promised = size
        self.look()

    def leaving(self, handler: str, generation: int) -> None:
        """Note that a worker is on its way out."""
        account = self._accounts.get((handler, generation))
        if account is not None:
            account.leaving = True

    def release(self, handler: str, generation: int) -> None:
        """Forget a generation: its process is gone, or was never there."""
        if self._accounts.pop((handler, generation), None) is not None:
            self.look()

    def look(self) -> None:
        """Give room to the requests in the order they came, and make some for the first that has none.

        While room is being made for the first, nobody else takes it. Only when all
        idle handlers together would not do for it, those behind it may have what is
        free meanwhile.
        """
        first_waits = False
        for request in list(self.queue):
            amount = self._amount(request)
            if amount is None:
                self.queue.remove(request)
                request.outcome(False)
            elif self.under_pressure:
                continue
            elif amount <= self._room_for(amount):
                self.queue.remove(request)
                self._accounts[request.handler, request.generation] = _Account(promised=amount)
                request.outcome(True)
            elif not first_waits:
                first_waits = True
                victims = self.victims(amount - self._room_for(amount))
                for victim in victims or ():
                    self._evict(victim.handler, victim.generation)
                if victims is not None:
                    return

    def evict_excess(self) -> None:
        """Evict idle handlers while more is used than there is; all of them if that is what it takes."""
        excess = self.used + self.others - self.usable
        if excess > 0:
            victims = self.victims(excess)
            for victim in self.evictable() if victims is None else victims:
                self._evict(victim.handler, victim.generation)

    def relieve_by_one(self) -> None:
        """Evict the least recently used idle handler, unless one is on its way out already."""
        evictable = self.evictable()
        if evictable and not any(account.leaving for account in self._accounts.values()):
            self._evict(evictable[0].handler, evictable[0].generation)

    def evictable(self) -> list[Eviction]:
        """Return what could be evicted now, least recently used first."""
        found = sorted(self._candidates(), key=lambda candidate: candidate.idle_since)
        sizes = [Eviction(one.handler, one.generation, self.size_of(one.handler, one.generation)) for one in found]
        # What has no process of its own, or is leaving, gives nothing back.
        return [one for one in sizes if one.size and not self._accounts[one.handler, one.generation].leaving]

    def victims(self, missing: int) -> list[Eviction] | None:
        """Return whom to evict for ``missing`` bytes beyond what is free and leaving; None if that would not do."""
        missing -= sum(account.size for account in self._accounts.values() if account.leaving)
        return minimal_evictions(self.evictable(), missing)

    def _amount(self, request: Request) -> int | None:
        """Return what the request gets, or None if it can never be given enough."""
        if request.minimum > self.max_grantable:
            return None
        return min(request.amount, max(request.minimum, self._comfortable))

    @property
    def _comfortable(self) -> int:
        """Bytes that a handler can have alone without the headroom, and without what others may give back."""
        return self.max_grantable - (self.limit - self.usable) - self.others

    def _room_for(self, amount: int) -> int:
        return self.room if amount <= self._comfortable else self.room + self.limit - self.usable


def minimal_evictions(evictable: Sequence[Eviction], missing: int) -> list[Eviction] | None:
    """Return the smallest number of evictions that free ``missing`` bytes, the least recently used of such sets.

    ``evictable`` has the least recently used first. None if all of them would not do.
    """
    if missing <= 0:
        return []
    count = freed = 0
    for one in sorted(evictable, key=lambda one: one.size, reverse=True):
        count, freed = count + 1, freed + one.size
        if freed >= missing:
            break
    else:
        return None
    chosen: list[Eviction] = []
    rest = list(evictable)
    while len(chosen) < count:
        for one in rest:
            others = sorted((other.size for other in rest if other is not one), reverse=True)
            if one.size + sum(others[: count - len(chosen) - 1]) >= missing:
                break
        else:
            raise AssertionError("a set of this size is known to do")
        chosen.append(one)
        rest.remove(one)
        missing -= one.size
    return chosen
