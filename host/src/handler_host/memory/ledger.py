"""Accounting of the memory budget: bytes per worker, queued requests, and the evictions that make them fit.

Pure: no loop, no clock, no process. ``handler_host.memory.budget`` waits and refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from handler_host.memory.eviction import Candidate, Eviction, choose_evictions

Key = tuple[str, int]
"""A handler and the generation of one of its workers."""


class Request(msgspec.Struct, eq=False):
    """A request for the memory of one activation.

    The ledger calls ``on_decision`` once: with True when the bytes are reserved, with
    False when the budget can never hold them.
    """

    handler: str
    generation: int
    amount: int
    """Bytes that the worker is expected to use."""
    minimum: int
    """Bytes that a worker has run with: enough where the whole budget has no more."""
    on_decision: Callable[[bool], None]


class _Account(msgspec.Struct, frozen=True):
    """The bytes of one worker."""

    reserved: int = 0
    measured: int = 0
    leaving: bool = False
    """Whether it is on its way out: its bytes count, and come back without an eviction."""

    @property
    def size(self) -> int:
        return max(self.reserved, self.measured)


class Ledger:
    """The bytes that host, fork server and workers may use together.

    ``usable`` is the limit less the headroom. A handler that fits beside no other even
    so may use the headroom too, alone: the headroom is there for estimates that are
    too low, and a final refusal is worse than a try. ``candidates`` returns the
    workers that are idle now, ``pinned`` those that must not be evicted. ``evict``
    starts an unload; its caller reports the progress by :meth:`mark_leaving` and
    :meth:`release`.
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
        self.external_usage = 0
        """Bytes of the same limit that processes of others hold, and the kernel for them."""
        self.under_pressure = False
        """Whether the kernel reports that memory is short: then nothing is granted."""
        self.queue: list[Request] = []
        self._candidates = candidates
        self._pinned = pinned
        self._evict = evict
        self._accounts: dict[Key, _Account] = {}
        # Kept with each change, so that a decision costs the same with ten workers and with ten thousand.
        self._measured = 0
        self._size = 0
        self._leaving: dict[Key, int] = {}

    @property
    def used(self) -> int:
        """Bytes measured: host, fork server and workers."""
        return self.base + self._measured

    @property
    def reserved(self) -> int:
        """Bytes reserved beyond those measured."""
        return self._size - self._measured

    @property
    def available(self) -> int:
        """Bytes that can still be reserved; negative if the processes are over the budget."""
        return self.usable - self.used - self.reserved - self.external_usage

    @property
    def leaving(self) -> Collection[Key]:
        """The workers that are on their way out."""
        return self._leaving.keys()

    @property
    def max_worker(self) -> int:
        """Bytes that a worker can use at most: all that host and fork server leave, without the headroom."""
        return max(0, self.usable - self.base)

    @property
    def max_grantable(self) -> int:
        """Bytes that one handler can have at most: with the headroom, and with every other worker evicted."""
        return self.limit - self.base - sum(self.size_of(*key) for key in self._pinned())

    def size_of(self, handler: str, generation: int) -> int:
        """Return the bytes that a worker counts with: the larger of reserved and measured."""
        account = self._accounts.get((handler, generation))
        return account.size if account is not None else 0

    def request(self, request: Request) -> None:
        """Queue a request; the ledger may decide it at once."""
        self.queue.append(request)
        self.schedule()

    def withdraw(self, request: Request) -> None:
        """Cancel a request, whether it is decided or not."""
        if request in self.queue:
            self.queue.remove(request)
            self.schedule()
        else:
            self.release(request.handler, request.generation)

    def measure(
        self, base: int, external_usage: int, workers: Mapping[Key, int], reservations: Mapping[Key, int]
    ) -> None:
        """Update the accounts from a measurement, in bytes.

        ``workers`` are measured sizes; ``reservations`` are what ready workers count
        with from now on. A worker missing from a mapping keeps its figure.
        """
        self.base, self.external_usage = base, external_usage
        # A worker may have exited, and been released, during the measurement.
        for key, size in workers.items():
            if (account := self._accounts.get(key)) is not None:
                self._set(key, msgspec.structs.replace(account, measured=size))
        for key, size in reservations.items():
            if (account := self._accounts.get(key)) is not None:
                self._set(key, msgspec.structs.replace(account, reserved=size))
        self.schedule()

    def mark_leaving(self, handler: str, generation: int) -> None:
        """Note that a worker is on its way out."""
        account = self._accounts.get((handler, generation))
        if account is not None:
            self._set((handler, generation), msgspec.structs.replace(account, leaving=True))

    def release(self, handler: str, generation: int) -> None:
        """Close the account of a worker: its process has exited, or never started."""
        if (handler, generation) in self._accounts:
            self._set((handler, generation), None)
            self.schedule()

    def schedule(self) -> None:
        """Grant queued requests in their order, and evict idle workers for the first that does not fit.

        Bytes that are being freed for the first request go to no other. Only if all
        idle workers together would not suffice for it, later requests may have the
        bytes that are available meanwhile.
        """
        first_waits = False
        for request in list(self.queue):
            amount = self._amount(request)
            if amount is None:
                self.queue.remove(request)
                request.on_decision(False)
            elif self.under_pressure:
                continue
            elif amount <= self._available_for(amount):
                self.queue.remove(request)
                self._set((request.handler, request.generation), _Account(reserved=amount))
                request.on_decision(True)
            elif not first_waits:
                first_waits = True
                evictions = self.find_evictions(amount - self._available_for(amount))
                for eviction in evictions or ():
                    self._evict(eviction.handler, eviction.generation)
                if evictions is not None:
                    return

    def evict_excess(self) -> None:
        """Evict idle workers while more is used than allowed; all of them if that is needed."""
        excess = self.used + self.external_usage - self.usable
        if excess > 0:
            evictions = self.find_evictions(excess)
            for eviction in self.evictable() if evictions is None else evictions:
                self._evict(eviction.handler, eviction.generation)

    def evict_one(self) -> None:
        """Evict the least recently used idle worker, unless a worker is on its way out already."""
        evictable = self.evictable()
        if evictable and not self._leaving:
            self._evict(evictable[0].handler, evictable[0].generation)

    def evictable(self) -> list[Eviction]:
        """Return the evictions that are possible now: surplus workers first, then the least recently used ones."""
        candidates = sorted(self._candidates(), key=lambda entry: (not entry.is_surplus, entry.idle_since))
        evictions = [
            Eviction(entry.handler, entry.generation, self.size_of(entry.handler, entry.generation), entry.is_surplus)
            for entry in candidates
        ]
        # A worker without a process of its own, or on its way out, frees nothing.
        return [
            eviction
            for eviction in evictions
            if eviction.size and not self._accounts[eviction.handler, eviction.generation].leaving
        ]

    def find_evictions(self, missing: int) -> list[Eviction] | None:
        """Return the evictions that free ``missing`` bytes beyond those leaving; None if all would not suffice."""
        missing -= sum(self._leaving.values())
        return choose_evictions(self.evictable(), missing) if missing > 0 else []

    def _set(self, key: Key, account: _Account | None) -> None:
        """Change the account of a worker, and the totals with it; None closes it."""
        before = self._accounts.pop(key, None)
        if before is not None:
            self._measured -= before.measured
            self._size -= before.size
            self._leaving.pop(key, None)
        if account is not None:
            self._accounts[key] = account
            self._measured += account.measured
            self._size += account.size
            if account.leaving:
                self._leaving[key] = account.size

    def _amount(self, request: Request) -> int | None:
        """Return the bytes that the request gets, or None if the budget can never hold enough."""
        if request.minimum > self.max_grantable:
            return None
        return min(request.amount, max(request.minimum, self._max_without_headroom))

    @property
    def _max_without_headroom(self) -> int:
        """Bytes that one handler can have at most without the headroom, beside the present external usage."""
        return self.max_grantable - (self.limit - self.usable) - self.external_usage

    def _available_for(self, amount: int) -> int:
        return self.available if amount <= self._max_without_headroom else self.available + self.limit - self.usable
