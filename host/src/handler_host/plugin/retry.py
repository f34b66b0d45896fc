"""Retries of provider calls, bounded by the dispatch's deadline.

The SDKs' own retries are off: they ignore the host's deadlines, and some wait as long as a provider asks them to.
Nothing is retried after the first chunk of a response.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from handler_host.plugin.errors import UpstreamError

Chunk = TypeVar("Chunk")


@dataclass(frozen=True)
class Retries:
    """How often an upstream call is tried again, and how long is waited before; seconds."""

    times: int = 2
    first_wait: float = 0.5
    longest_wait: float = 8.0
    longest_retry_after: float = 20.0
    """A provider that asks for more patience than this is not waited for: the client is told."""

    def wait(self, attempt: int, retry_after: float | None) -> float | None:
        """Return the pause after failed attempt number ``attempt`` (from 0), or None to give up."""
        if attempt >= self.times:
            return None
        if retry_after is not None:
            return retry_after if retry_after <= self.longest_retry_after else None
        # Full jitter below the exponential: clients that failed together do not come back together.
        pause: float = min(self.longest_wait, self.first_wait * 2**attempt)
        return random.uniform(0.5, 1.0) * pause


async def retried(
    attempt: Callable[[], AsyncIterator[Chunk]], retries: Retries, *, deadline: float | None = None
) -> AsyncIterator[Chunk]:
    """Yield the pieces of ``attempt``, which is made anew when it fails before its first piece.

    ``attempt`` raises the errors of ``handler_host.plugin.errors``; only retryable ones are tried
    again, and none whose pause would end after ``deadline`` (of ``time.monotonic``).
    """
    number = 0
    while True:
        begun = False
        try:
            async with aclosing(attempt()) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    begun = True
                    yield chunk
        except UpstreamError as error:
            wait = retries.wait(number, error.retry_after) if error.retryable and not begun else None
            if wait is None or (deadline is not None and time.monotonic() + wait >= deadline):
                raise
        else:
            return
        number += 1
        await asyncio.sleep(wait)
