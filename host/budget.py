"""The memory budget: bytes promised before a fork, bytes measured after it.

An activation reserves what its handler is expected to take: the most it ever
took, else its manifest's estimate, else a default. While there is no room, idle
handlers are evicted, least recently used first, and no more of them than it
takes; then the activation waits, for a bounded time. All decisions are made in
the event loop's thread, in :meth:`Budget._admit`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from host.errors import MemoryBudget
from host.units import format_size


@dataclass(frozen=True)
class Candidate:
    """An idle handler that could be evicted."""

    handler: str
    generation: int
    idle_since: float
    pss: int


@dataclass(eq=False)
class _Request:
    """An activation that waits for room."""

    handler: str
    generation: int
    amount: int
    granted: asyncio.Future[None] = field(repr=False)


class Budget:
    """Hands out the bytes that host, fork server and workers may use together.

    ``usable`` is the limit less the headroom, in bytes. ``candidates`` names the
    handlers that are idle now; ``evict`` begins to unload one of them, which is
    told back by :meth:`leaving`.
    """

    def __init__(
        self,
        usable: int,
        *,
        wait: float,
        candidates: Callable[[], list[Candidate]],
        evict: Callable[[str, int], None],
    ) -> None:
        self.usable = usable
        self._wait = wait
        self._candidates = candidates
        self._evict = evict
        self._base = 0
        self._measured: dict[tuple[str, int], int] = {}
        self._reserved: dict[tuple[str, int], int] = {}
        self._leaving: set[tuple[str, int]] = set()
        self._queue: deque[_Request] = deque()

    @property
    def reserved(self) -> int:
        """Bytes promised beyond what is measured."""
        return sum(max(0, amount - self._measured.get(key, 0)) for key, amount in self._reserved.items())

    @property
    def used(self) -> int:
        """Bytes measured: host, fork server and workers."""
        return self._base + sum(self._measured.values())

    @property
    def room(self) -> int:
        """Bytes that can still be promised; negative if the tree is over the budget."""
        return self.usable - self.used - self.reserved

    async def reserve(self, handler: str, generation: int, amount: int) -> None:
        """Promise ``amount`` bytes to this generation, when there is room.

        Raises :class:`MemoryBudget` if that can never be, or is not within the time
        that an activation may wait. Being cancelled gives the place in the queue up.
        """
        possible = self.usable - self._base
        if amount > possible:
            raise NeverFits(
                f"{handler} needs {format_size(amount)}, and the whole budget has {format_size(max(0, possible))} "
                f"for handlers ({format_size(self.usable)} usable, {format_size(self._base)} of it used by the host); "
                "raise memory.limit, or the plan of the machine",
                details={"needed": amount, "usable": self.usable, "host": self._base},
            )
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        request = _Request(handler, generation, amount, granted)
        self._queue.append(request)
        self._admit()
        try:
            async with asyncio.timeout(self._wait):
                await granted
        except TimeoutError:
            if granted.done() and not granted.cancelled():
                return  # granted in the very moment the time ran out
            raise MemoryBudget(
                f"no room for {handler}: it needs {format_size(amount)}, {format_size(max(0, self.room))} are free of "
                f"{format_size(self.usable)}, and no idle handler could be unloaded within {self._wait:g} s",
                retry_after=self._wait,
                details={"needed": amount, "free": max(0, self.room), "usable": self.usable},
            ) from None
        except asyncio.CancelledError:
            # Cancelled in the very moment it was granted: the promise is taken back.
            self._reserved.pop((handler, generation), None)
            raise
        finally:
            if request in self._queue:
                self._queue.remove(request)
            self._admit()

    def measured(self, base: int, workers: dict[tuple[str, int], int]) -> None:
        """Take a new measurement: bytes of host and fork server, and of each worker by handler and generation."""
        self._base = base
        for key, size in workers.items():
            # A worker may have ended, and been released, while the measurement was taken.
            if key in self._measured or key in self._reserved:
                self._measured[key] = size
        self._admit()

    def settle(self, handler: str, generation: int, size: int) -> None:
        """Replace the promise to an activation by what its worker really uses."""
        key = (handler, generation)
        self._reserved.pop(key, None)
        self._measured[key] = size
        self._admit()

    def leaving(self, handler: str, generation: int) -> None:
        """Note that a worker is on its way out: its bytes count as used, but come back without an eviction."""
        self._leaving.add((handler, generation))

    def release(self, handler: str, generation: int) -> None:
        """Forget a generation: its process is gone, or was never there."""
        key = (handler, generation)
        self._reserved.pop(key, None)
        self._measured.pop(key, None)
        self._leaving.discard(key)
        self._admit()

    def next_victims(self, amount: int) -> list[Candidate]:
        """Return whom to evict for ``amount`` bytes: least recently used first, none that is not needed."""
        missing = amount - self.room - sum(self._measured.get(key, 0) for key in self._leaving)
        victims: list[Candidate] = []
        for candidate in self.eviction_order():
            if missing <= 0:
                break
            victims.append(candidate)
            missing -= candidate.pss
        if missing > 0:
            return victims
        for candidate in list(victims):
            # The oldest may have become unnecessary by a larger one behind it.
            if missing + candidate.pss <= 0:
                victims.remove(candidate)
                missing += candidate.pss
        return victims

    def eviction_order(self) -> list[Candidate]:
        """Return who is idle, in the order in which they would be evicted."""
        return sorted(self._candidates(), key=lambda candidate: candidate.idle_since)

    def _admit(self) -> None:
        """Give room to the requests in the order they came; evict for the first that has none."""
        while self._queue:
            request = self._queue[0]
            if request.granted.done():
                self._queue.popleft()
                continue
            if request.amount > self.room:
                break
            self._queue.popleft()
            self._reserved[request.handler, request.generation] = request.amount
            request.granted.set_result(None)
        if self._queue:
            for victim in self.next_victims(self._queue[0].amount):
                self._evict(victim.handler, victim.generation)


class NeverFits(MemoryBudget):
    """A handler needs more than the whole budget: asking again is of no use."""

    retryable = False
