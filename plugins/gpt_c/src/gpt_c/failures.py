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
    error_from_document,
    error_from_response,
    find_error,
    timeout_error,
    unreachable_error,
)


@contextmanager
def connection(timeout: float) -> Iterator[None]:
    """Turn what aiohttp raises into the host's errors; ``timeout`` is in seconds."""
    try:
        yield
    except TimeoutError as error:
        raise timeout_error(timeout) from error
    except aiohttp.ClientError as error:
        raise unreachable_error(error) from error


def from_response(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """Return the error for a response without a 2xx status."""
    if status < 400:
        return UpstreamError(f"the provider redirects ({status}), or is not a Gemini server; check base_url")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    return _with_details(error_from_response(status, headers, body), document, str(status))


def in_stream(document: Any, content_type: str = "") -> UpstreamError:
    """Return the error for an error in a stream, or in a response with status 200."""
    return _with_details(error_from_document(document, content_type=content_type), document, "in a response")


def _with_details(error: UpstreamError, document: Any, place: str) -> UpstreamError:
    """Return the error with what Google's details add to it: a wrong key, the wait, the field."""
    if isinstance(document, list) and document:
        document = document[0]
    content = document.get("error") if isinstance(document, dict) else None
    listed = content.get("details") if isinstance(content, dict) else None
    details = [detail for detail in listed if isinstance(detail, dict)] if isinstance(listed, list) else []
    provider_error = find_error(document)
    if provider_error is not None and provider_error.refuses_key:
        return UpstreamAuth(f"the provider refused the handler's key ({place}); check the handler's secret")
    retry_after = _retry_delay(details) if error.retry_after is None else error.retry_after
    return type(error)(error.message, retry_after=retry_after, param=error.param or _field(details))


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
