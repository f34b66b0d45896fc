"""Limits that several hosts count together. Imported only if ``shared.url`` is set."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Coroutine
from typing import Any

from handler_host.auth import failed_login_throttle
from handler_host.auth.consumers import Consumer, Refusal
from handler_host.plugin.errors import LimitsUnavailable
from handler_host.shared.store import LIMITS, RETRY_AFTER_S, SharedStore, StoreUnavailable


class SharedLimits:
    """Decisions of the shared server, and what holds while it does not respond.

    ``is_open``: requests then have the limits of this host alone; otherwise they are refused.
    """

    def __init__(self, store: SharedStore, *, is_open: bool) -> None:
        self._store = store
        self._is_open = is_open
        self._tasks: set[asyncio.Task[None]] = set()

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
            raise LimitsUnavailable(
                "the server that counts the limits does not respond", retry_after=RETRY_AFTER_S
            ) from None
        return None if reached is None else consumer.refusal(reached.name, reached.wait_s)

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
        work = self._quietly(self._store.forget_wrong_keys(realm, address))
        task = asyncio.create_task(work, name="reset of wrong keys")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
