"""Map errors of providers to errors of the host."""

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
"""Codes of providers for content that their filters refuse."""


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
        # Without the provider's text: some repeat a part of the key in it.
        return UpstreamAuth(f"the provider refused the handler's key ({status}); check the handler's secret")
    if status == 408:
        return UpstreamTimeout(f"the provider timed out ({status}): {message}")
    if status == 429:
        return UpstreamRateLimited(f"the provider limits the rate: {message}", retry_after=retry_after)
    if status in (503, 529):
        return UpstreamOverloaded(f"the provider is overloaded ({status}): {message}", retry_after=retry_after)
    if status >= 500:
        return UpstreamError(f"the provider failed ({status}): {message}", retry_after=retry_after)
    return UpstreamBadRequest(f"the provider refused the request ({status}): {message}", param=param)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``retry-after-ms`` or ``retry-after`` (RFC 9110: seconds, or a date), or None.

    ``headers`` has lower-case names, or ignores their case.
    """
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
    """Raise ``InvalidInput`` for the first of the fields ``names`` that is set: no field is dropped silently."""
    for name in names:
        if getattr(request, name) not in (None, [], {}):
            raise InvalidInput(f"{name}: not supported by {provider}; leave it out", param=name)


def timeout_error(seconds: float) -> UpstreamTimeout:
    """Return the error for a provider that has sent nothing for ``seconds``."""
    return UpstreamTimeout(f"no response from the provider within {seconds:g} s")


def unreachable_error(error: BaseException) -> UpstreamUnreachable:
    """Return the error for a failed connection to the provider; of ``error`` it names only the type."""
    return UpstreamUnreachable(f"the connection to the provider failed: {type(error).__name__}")


def from_httpx(error: Exception, timeout: float) -> UpstreamError | None:
    """Return the error for an exception of httpx or httpx2, or None for any other.

    SDKs do not translate these exceptions in the middle of a stream. ``timeout`` is the setting in seconds.
    """
    if not type(error).__module__.startswith("httpx"):
        return None
    return timeout_error(timeout) if "Timeout" in type(error).__name__ else unreachable_error(error)
