"""What handlers on a provider's SDK share: the meaning of failures, and the one retry loop.

The SDKs' own retries are switched off: they are hidden from the host's deadlines,
and some wait as long as a provider tells them to. Here they are bounded, and never
come after the first piece of an answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from host.errors import (
    ContentRefused,
    InvalidInput,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from host.plugin import traceparent

Piece = TypeVar("Piece")
REFUSALS = frozenset({"content_filter", "content_policy_violation", "safety"})
"""Providers' codes for content that they refuse."""


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
    attempt: Callable[[], AsyncIterator[Piece]], retries: Retries, *, deadline: float | None = None
) -> AsyncIterator[Piece]:
    """Yield the pieces of ``attempt``, which is made anew when it fails before its first piece.

    ``attempt`` raises the errors of ``host.errors``; only retryable ones are tried
    again, and none whose pause would end after ``deadline`` (of ``time.monotonic``).
    """
    number = 0
    while True:
        begun = False
        try:
            async with aclosing(attempt()) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    begun = True
                    yield piece
        except UpstreamError as error:
            wait = retries.wait(number, error.retry_after) if error.retryable and not begun else None
            if wait is None or (deadline is not None and time.monotonic() + wait >= deadline):
                raise
        else:
            return
        number += 1
        await asyncio.sleep(wait)


def from_status(
    status: int,
    message: str,
    *,
    retry_after: float | None = None,
    param: str | None = None,
    code: str | None = None,
) -> UpstreamError:
    """Return the error for a provider's HTTP status."""
    if code in REFUSALS:
        return ContentRefused(f"the provider refused the content: {message}", param=param)
    if status in (401, 403):
        # Not the provider's text: some repeat a part of the key in it.
        return UpstreamAuth(f"the provider refused the handler's key ({status}); check the handler's secret")
    if status == 408:
        return UpstreamTimeout(f"the provider gave up waiting ({status}): {message}")
    if status == 429:
        return UpstreamRateLimited(f"the provider limits the rate: {message}", retry_after=retry_after)
    if status in (503, 529):
        return UpstreamOverloaded(f"the provider is overloaded ({status}): {message}", retry_after=retry_after)
    if status >= 500:
        return UpstreamError(f"the provider failed ({status}): {message}", retry_after=retry_after)
    return UpstreamBadRequest(f"the provider refused the request ({status}): {message}", param=param)


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in ``retry-after-ms`` or ``Retry-After`` (RFC 9110: seconds, or a date), or None."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "")
        if not value:
            return None
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def trace_headers() -> dict[str, str]:
    """Return the headers that make a request to a provider a part of the dispatch's trace; none if it is not traced."""
    parent = traceparent.get()
    return {} if parent is None else {"traceparent": parent}


def refuse_fields(request: Any, provider: str, *names: str) -> None:
    """Raise ``InvalidInput`` for the first of these fields that a request has: nothing is dropped in silence."""
    for name in names:
        if getattr(request, name) not in (None, [], {}):
            raise InvalidInput(f"{name}: {provider} has nothing of the kind; leave it out", param=name)


def timed_out(seconds: float) -> UpstreamTimeout:
    """Return the error for a provider that was silent for so long."""
    return UpstreamTimeout(f"no answer from the provider within {seconds:g} s")


def unreachable(error: BaseException) -> UpstreamUnreachable:
    """Return the error for a connection to the provider that failed with ``error``, of whose text nothing is told."""
    return UpstreamUnreachable(f"the connection to the provider failed: {type(error).__name__}")


def of_httpx(error: Exception, timeout: float) -> UpstreamError | None:
    """Return the error for one of httpx or httpx2, which SDKs let through in mid-stream, or None if it is none."""
    if not type(error).__module__.startswith("httpx"):
        return None
    return timed_out(timeout) if "Timeout" in type(error).__name__ else unreachable(error)
