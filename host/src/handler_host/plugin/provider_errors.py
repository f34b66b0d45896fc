"""Errors of providers, mapped to the errors of the host."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from handler_host.plugin.errors import (
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

REFUSALS = frozenset({"content_filter", "content_policy_violation", "safety"})
"""Providers' codes for content that they refuse."""


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
