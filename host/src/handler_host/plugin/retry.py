"""Retries of provider calls, bounded by the deadline of the dispatch.

The SDKs' own retries are off: they ignore the host's deadlines, and some wait as long as a provider asks.
Nothing is retried after the first chunk of a response.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from handler_host.plugin.errors import UpstreamError

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Retries:
    """Number of retries of a provider call, and the waits before them in seconds."""

    times: int = 2
    first_wait: float = 0.5
    longest_wait: float = 8.0
    longest_retry_after: float = 20.0
    """Longest ``Retry-After`` that is waited for; a longer one is passed on to the client."""

    def wait(self, attempt: int, retry_after: float | None) -> float | None:
        """Return the seconds to wait after failed attempt number ``attempt`` (from 0), or None to give up."""
        if attempt >= self.times:
            return None
        if retry_after is not None:
            return retry_after if retry_after <= self.longest_retry_after else None
        # Jitter below the exponential backoff: clients that failed together do not retry together.
        backoff: float = min(self.longest_wait, self.first_wait * 2**attempt)
        return random.uniform(0.5, 1.0) * backoff


async def retry_stream(
    attempt: Callable[[], AsyncIterator[Chunk]], retries: Retries, *, deadline: float | None = None
) -> AsyncGenerator[Chunk, None]:
    """Yield the chunks of ``attempt()``, which is called again if it fails before its first chunk.

    ``attempt`` raises the errors of ``handler_host.plugin.errors``. Only retryable ones are retried, and
    only if the wait ends before ``deadline`` (on the clock of ``time.monotonic``).
    """
    number = 0
    while True:
        has_yielded = False
        try:
            async with aclosing(attempt()) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    has_yielded = True
                    yield chunk
        except UpstreamError as error:
            wait = retries.wait(number, error.retry_after) if error.retryable and not has_yielded else None
            if wait is None or (deadline is not None and time.monotonic() + wait >= deadline):
                raise
        else:
            return
        number += 1
        await asyncio.sleep(wait)


async def retry_call(
    call: Callable[[], Awaitable[Result]], retries: Retries, *, deadline: float | None = None
) -> Result:
    """Return the result of ``call()``, which is called again if it fails: by the rules of :func:`retry_stream`."""

    async def attempt() -> AsyncIterator[Result]:
        yield await call()

    (result,) = [result async for result in retry_stream(attempt, retries, deadline=deadline)]
    return result
