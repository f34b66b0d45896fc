"""Budget of request bodies: the bytes of all bodies in flight, within a share of the host's memory limit."""

from __future__ import annotations

import logging
from collections.abc import Callable

from handler_host._internal.units import format_size
from handler_host.config import ServerConfig
from handler_host.http.request_context import RequestContext
from handler_host.memory.trim import HeapTrimmer
from handler_host.plugin.errors import MemoryBudget

log = logging.getLogger(__name__)

SHARE = 16
"""Bodies may have one part in so many of the memory limit.

While a body waits for its worker, it takes five times its size if it is passed on, and seven times if it is translated:
the body, the message for the worker, the channel's buffer, which grows by copying (Python 3.11), and what is decoded.
"""
BURST_BYTES = 1024 * 1024
"""Bytes in flight after which freed memory is returned to the system, once the host is at rest."""


class BodyBudget:
    """Bytes of all bodies in flight."""

    def __init__(self, config: ServerConfig, memory_limit: Callable[[], int] | None) -> None:
        self._max_bodies = config.max_bodies
        self._max_body = config.max_body
        self._memory_limit = memory_limit
        self._used = 0
        self._peak = 0
        self._trimmer = HeapTrimmer(is_busy=lambda: self._used > BURST_BYTES)

    @property
    def limit(self) -> int | None:
        """Most bytes of all bodies together; None: unlimited."""
        if self._max_bodies is not None:
            return max(self._max_bodies, self._max_body)
        if self._memory_limit is None:
            return None
        return max(self._memory_limit() // SHARE, self._max_body)

    def share_of(self, context: RequestContext) -> BodyShare:
        """Return the share of a request; it ends with the request."""
        share = BodyShare(self)
        context.on_end = share.release
        return share

    def add(self, size_bytes: int) -> None:
        """Count bytes; raises ``MemoryBudget`` beyond the limit."""
        used = self._used + size_bytes
        limit = self.limit if used > self._max_body else None
        if limit is not None and used > limit:
            raise MemoryBudget(
                f"the request bodies in flight have {format_size(limit)} (server.max_bodies); try again later",
                retry_after=1.0,
            )
        self._used = used
        self._peak = max(self._peak, used)

    def remove(self, size_bytes: int) -> None:
        """Count bytes no more; return freed memory to the system when a burst is over."""
        self._used -= size_bytes
        if self._peak > BURST_BYTES and self._used <= BURST_BYTES:
            self._peak = self._used
            self._trimmer.schedule()


class BodyShare:
    """Bytes of one request's body."""

    __slots__ = ("_budget", "_size_bytes")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._size_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Count bytes that have arrived; raises ``MemoryBudget``."""
        self._budget.add(size_bytes)
        self._size_bytes += size_bytes

    def release(self) -> None:
        """Count the body no more."""
        self._budget.remove(self._size_bytes)
        self._size_bytes = 0
