"""Google's failures, and those of the connection to it, as the host's errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp

from handler_host.plugin import (
    UpstreamAuth,
    UpstreamError,
    from_status,
    parse_retry_after,
    timeout_error,
    unreachable_error,
)

_BAD_KEY = "API_KEY_INVALID"
"""Google answers a wrong key with 400, and this reason among its details."""


@contextmanager
def connection(timeout: float) -> Iterator[None]:
    """Turn what aiohttp raises into the host's errors; ``timeout`` is in seconds."""
    try:
        yield
    except TimeoutError as error:
        raise timeout_error(timeout) from error
    except aiohttp.ClientError as error:
        raise unreachable_error(error) from error


def from_answer(status: int, headers: Mapping[str, str], body: str) -> UpstreamError:
    """Return the error for a response without a 2xx status."""
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    return from_error(status, headers, content)


def from_error(status: int, headers: Mapping[str, str], content: Any) -> UpstreamError:
    """Return the error for Google's envelope; one that is not Google's is not repeated: it may be a proxy's page."""
    if status < 400:
        return UpstreamError(f"the provider redirects ({status}), or is not a Gemini server; check base_url")
    if isinstance(content, list) and content:
        content = content[0]
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict) or not error.get("message"):
        return from_status(
            status,
            f"an answer that is not Google's ({headers.get('content-type')})",
            retry_after=parse_retry_after(headers),
        )
    details = [detail for detail in error.get("details") or () if isinstance(detail, dict)]
    if any(detail.get("reason") == _BAD_KEY for detail in details):
        return UpstreamAuth(f"the provider refused the handler's key ({status}); check the handler's secret")
    retry_after = parse_retry_after(headers)
    return from_status(
        status,
        str(error["message"]),
        retry_after=_retry_delay(details) if retry_after is None else retry_after,
        param=_field(details),
    )


def in_stream(content: Any) -> UpstreamError:
    """Return the error for an error that came in a stream, whose status says nothing of it."""
    error = content.get("error") if isinstance(content, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return from_error(code if isinstance(code, int) and code >= 400 else 500, {}, content)


def _retry_delay(details: list[dict[str, Any]]) -> float | None:
    """Return the seconds of google.rpc.RetryInfo, ``"17s"``, which Google sends in place of ``Retry-After``."""
    for detail in details:
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and delay.endswith("s"):
            try:
                return max(0.0, float(delay[:-1]))
            except ValueError:
                return None
    return None


def _field(details: list[dict[str, Any]]) -> str | None:
    """Return the first field of google.rpc.BadRequest."""
    for detail in details:
        violations = detail.get("fieldViolations")
        if isinstance(violations, list) and violations and isinstance(violations[0], dict):
            field = violations[0].get("field")
            return field if isinstance(field, str) and field else None
    return None
