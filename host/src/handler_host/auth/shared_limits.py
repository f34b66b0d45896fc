"""Limits that several hosts count together. Imported only if ``shared.url`` is set.

A dispatch in flight has a slot in the server, which its host keeps while it runs. The slots of a host that died
expire; so do those of a host that cannot reach the server, whose dispatches run on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from handler_host.auth import failed_login_throttle
from handler_host.auth.consumers import Consumer, Refusal
from handler_host.plugin.errors import LimitsUnavailable
from handler_host.shared.store import LIMITS, RETRY_AFTER_S, SLOT_S, SharedStore, StoreUnavailable


class SharedLimits:
    """Decisions of the shared server, and what holds while it does not respond.

    ``is_open``: requests then have the limits of this host alone; otherwise they are refused.
    """

    def __init__(self, store: SharedStore, *, is_open: bool) -> None:
        self._store = store
        self._is_open = is_open
        self._tasks: set[asyncio.Task[None]] = set()
        self._host = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._slots: dict[str, set[str]] = {}
        """Slots of the dispatches in flight on this host, by consumer."""
        self._keeping: asyncio.Task[None] | None = None

    async def check(self, consumer: Consumer, *, uses_tokens: bool) -> Refusal | None:
        """Count a request and return None, or return why it is refused; raises ``LimitsUnavailable``."""
        limits = {limit: getattr(consumer.entry, limit) for limit in LIMITS}
        if not any(limits.values()):
            return None
        try:
            reached = await self._store.count_request(consumer.name, limits, uses_tokens=uses_tokens)
        except StoreUnavailable:
            if self._is_open:
                return consumer.check(uses_tokens=uses_tokens)
            raise _limits_unavailable() from None
        return None if reached is None else consumer.refusal(reached.name, reached.wait_s)

    async def acquire(self, consumer: Consumer, limit: int) -> Callable[[], None]:
        """Acquire a slot for a dispatch of a consumer with ``limit`` of them; return what releases it.

        Raises ``RateLimited`` and ``LimitsUnavailable``.
        """
        slot = f"{self._host}-{next(self._numbers)}"
        try:
            if not await self._store.take_slot(consumer.name, slot, limit):
                raise consumer.refusal("concurrency", 1.0).error
        except StoreUnavailable:
            if self._is_open:
                return consumer.acquire_own()
            raise _limits_unavailable() from None
        except asyncio.CancelledError:
            self._release(consumer.name, slot)  # the server may have granted it
            raise
        self._slots.setdefault(consumer.name, set()).add(slot)
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep_slots(), name="slots in the shared server")
        return functools.partial(self._release, consumer.name, slot)

    def _release(self, consumer: str, slot: str) -> None:
        slots = self._slots.get(consumer, set())
        slots.discard(slot)
        if not slots:
            self._slots.pop(consumer, None)
        self._start(self._store.release_slot(consumer, slot), "release of a slot")

    async def _keep_slots(self) -> None:
        """Keep the slots of the dispatches in flight until there are none."""
        while self._slots:
            await asyncio.sleep(SLOT_S / 3)
            for consumer, slots in list(self._slots.items()):
                await self._quietly(self._store.keep_slots(consumer, tuple(slots)))
        self._keeping = None

    async def close(self) -> None:
        """Wait until what was released is so in the server, too; its calls are bounded."""
        if self._keeping is not None:
            self._keeping.cancel()
        await asyncio.gather(*self._tasks)

    async def count_wrong_key(self, realm: str, address: str) -> float:
        """Count a wrong key of an address on all hosts; return the seconds to delay its response."""
        try:
            return await self._store.count_wrong_key(
                realm,
                address,
                free=failed_login_throttle.FREE_FAILURES,
                first_s=failed_login_throttle.FIRST_DELAY_S,
                longest_s=failed_login_throttle.MAX_DELAY_S,
                forget_s=failed_login_throttle.FORGET_AFTER_S,
            )
        except StoreUnavailable:
            return 0.0  # the count of this host applies

    def forget_wrong_keys(self, realm: str, address: str) -> None:
        """Forget the wrong keys of an address soon."""
        self._start(self._store.forget_wrong_keys(realm, address), "reset of wrong keys")

    def throttle(self, realm: str) -> failed_login_throttle.FailedLoginThrottle:
        """Return a throttle that counts on all hosts; ``realm`` is ``consumer`` or ``operator``."""
        return failed_login_throttle.FailedLoginThrottle(
            count_shared=functools.partial(self.count_wrong_key, realm),
            forget_shared=functools.partial(self.forget_wrong_keys, realm),
        )

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(self._quietly(work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _quietly(work: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(StoreUnavailable):  # it was logged, and the server forgets by itself
            await work


def _limits_unavailable() -> LimitsUnavailable:
    return LimitsUnavailable("the server that counts the limits does not respond", retry_after=RETRY_AFTER_S)
