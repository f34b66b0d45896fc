"""Errors in Anthropic's format."""

from __future__ import annotations

from typing import Any

import msgspec

from handler_host.http.sse import event
from handler_host.plugin.errors import HostError

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's type of an error, where it is not that of its class of statuses."""


def error_body(error: HostError, request_id: str) -> bytes:
    """Return the JSON of an error in Anthropic's format; ``details.error_code`` is the host's own code."""
    details: dict[str, Any] = {"error_code": error.code}
    if error.param is not None:
        details["param"] = error.param
    if error.retry_after is not None:
        details["retry_after"] = round(error.retry_after, 3)
    error_type = ERROR_TYPES.get(error.status) or ("api_error" if error.status >= 500 else "invalid_request_error")
    content = {"type": error_type, "message": error.message, "details": details | (error.details or {})}
    return msgspec.json.encode({"type": "error", "error": content, "request_id": request_id})


def error_events(error: HostError, request_id: str) -> list[bytes]:
    """Return the event that Anthropic's SDK expects for an error in a stream; no event follows it."""
    return [event(error_body(error, request_id), "error")]
