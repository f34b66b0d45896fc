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
import time
from collections.abc import Callable, Coroutine
from typing import Any

from handler_host._internal.background_tasks import BackgroundTasks
from handler_host.auth import failed_login_throttle
from handler_host.auth.consumers import Consumer, Refusal
from handler_host.plugin.errors import LimitsUnavailable
from handler_host.shared.store import LIMITS, RETRY_AFTER_S, SLOT_S, SharedStore, StoreNotTried, StoreUnavailable


class SharedLimits:
    """Decisions of the shared server, and what holds while it does not respond.

    ``is_open``: requests then have the limits of this host alone; otherwise they are refused.
    """

    def __init__(self, store: SharedStore, *, is_open: bool) -> None:
        self._store = store
        self._is_open = is_open
        self._tasks = BackgroundTasks()
        self._host = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._slots: dict[str, set[str]] = {}
        """Slots of the dispatches in flight on this host, by consumer."""
        self._released: dict[str, dict[str, float]] = {}
        """Released slots that the server may still have, by consumer, with the time at which they expire there."""
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
        """Acquire a slot for a dispatch of a consumer with ``limit`` of them; return the function that releases it.

        Raises ``RateLimited`` and ``LimitsUnavailable``.
        """
        name, slot = consumer.name, f"{self._host}-{next(self._numbers)}"
        # The attempt before this one of the same request may have a slot whose release is not in the server yet.
        released = tuple(self._released.get(name, ()))
        try:
            is_acquired = await self._store.acquire_slot(name, slot, limit, released)
        except StoreUnavailable as error:
            if not isinstance(error, StoreNotTried):
                self._release(name, slot, is_acquired=False)
            if self._is_open:
                return consumer.acquire_own()
            raise _limits_unavailable() from None
        except asyncio.CancelledError:
            self._release(name, slot, is_acquired=False)
            raise
        if not is_acquired:
            raise consumer.refusal("concurrency", 1.0).error
        self._slots.setdefault(name, set()).add(slot)
        self._start_keeping()
        return functools.partial(self._release, name, slot, is_acquired=True)

    def _release(self, consumer: str, slot: str, *, is_acquired: bool) -> None:
        """Release a slot; without ``is_acquired``, the call that acquires it may still reach the server."""
        slots = self._slots.get(consumer, set())
        slots.discard(slot)
        if not slots:
            self._slots.pop(consumer, None)
        self._released.setdefault(consumer, {})[slot] = time.monotonic() + SLOT_S
        self._start_keeping()
        self._tasks.spawn(
            self._quietly(self._release_in_server(consumer, slot, is_acquired=is_acquired)), "release of a slot"
        )

    async def _release_in_server(self, consumer: str, slot: str, *, is_acquired: bool) -> None:
        await self._store.release_slots(consumer, (slot,))
        if is_acquired:  # otherwise the call that acquires it may reach the server later, on another connection
            self._released.get(consumer, {}).pop(slot, None)

    def _start_keeping(self) -> None:
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep_slots(), name="slots in the shared server")

    async def _keep_slots(self) -> None:
        """Keep the slots of the dispatches in flight and repeat releases, while there are any."""
        while self._slots or self._released:
            await asyncio.sleep(SLOT_S / 3)
            for consumer, slots in list(self._slots.items()):
                await self._quietly(self._store.keep_slots(consumer, tuple(slots)))
            await self._repeat_releases()

    async def _repeat_releases(self) -> None:
        """Release the slots that the server may still have, and forget those that have expired there."""
        now = time.monotonic()
        for consumer, slots in list(self._released.items()):
            remaining = {slot: expires_at for slot, expires_at in slots.items() if expires_at > now}
            if remaining:
                self._released[consumer] = remaining
                await self._quietly(self._store.release_slots(consumer, tuple(remaining)))
            else:
                del self._released[consumer]

    async def close(self) -> None:
        """Wait until the released slots are released in the server, too; its calls are bounded."""
        if self._keeping is not None:
            self._keeping.cancel()
        await self._tasks.join()
        await self._repeat_releases()

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
        self._tasks.spawn(self._quietly(self._store.forget_wrong_keys(realm, address)), "reset of wrong keys")

    def throttle(self, realm: str) -> failed_login_throttle.FailedLoginThrottle:
        """Return a throttle that counts on all hosts; ``realm`` is ``consumer`` or ``operator``."""
        return failed_login_throttle.FailedLoginThrottle(
            count_shared=functools.partial(self.count_wrong_key, realm),
            forget_shared=functools.partial(self.forget_wrong_keys, realm),
        )

    @staticmethod
    async def _quietly(work: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(StoreUnavailable):  # it was logged, and the server forgets by itself
            await work


def _limits_unavailable() -> LimitsUnavailable:
    return LimitsUnavailable("the server that counts the limits does not respond", retry_after=RETRY_AFTER_S)
