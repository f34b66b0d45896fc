"""Errors in Google's format."""

from __future__ import annotations

from typing import Any

import msgspec

from handler_host.http.sse import event
from handler_host.plugin.errors import HostError

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Google's name (google.rpc.Code) of each status; every other status below 500 is INVALID_ARGUMENT."""
_TYPE = "type.googleapis.com/google.rpc."


def error_body(error: HostError, request_id: str) -> bytes:
    """Return the JSON of an error in Google's envelope, with its details in the types of google.rpc."""
    status = STATUSES.get(error.status) or ("INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT")
    details: list[dict[str, Any]] = [
        {
            "@type": f"{_TYPE}ErrorInfo",
            "reason": error.code.upper(),
            "domain": "handler-host",
            "metadata": {"request_id": request_id},
        }
    ]
    if error.param is not None:
        violation = {"field": error.param, "description": error.message}
        details.append({"@type": f"{_TYPE}BadRequest", "fieldViolations": [violation]})
    if error.retry_after is not None:
        details.append({"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{error.retry_after:.3f}s"})
    content = {"code": error.status, "message": error.message, "status": status, "details": details}
    return msgspec.json.encode({"error": content})


def error_events(error: HostError, request_id: str) -> list[bytes]:
    """Return the events of an error in a stream, each to be sent as a chunk of its own.

    Google sends the bare JSON: @google/genai up to 1.30 and Google's SDK for Go find an error only there. Parsers of
    server-sent events ignore it, and find the error in the event.
    """
    body = error_body(error, request_id)
    return [body, event(body)]
