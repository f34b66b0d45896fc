"""Errors as answers: one envelope, which clients of OpenAI understand as well, unless a route's protocol has its own.

``{"error": {"message", "type", "param", "code", "request_id"}}`` has the fields of
OpenAI's envelope with their meaning, and adds the request's number, ``retry_after``
in seconds where there is one, and ``details``.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import istr

from handler_host.auth.consumer_auth import Endpoint
from handler_host.http import request_context
from handler_host.plugin.errors import BadRequest, HostError, MethodNotAllowed, NotFound

log = logging.getLogger(__name__)

JSON = "application/json"
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's word for the kind of an error, where it is not that of its class of statuses."""
BUSY = frozenset({429, 503})
"""Statuses that tell a client to come again later."""


def error_type(status: int) -> str:
    """Return the kind of error in OpenAI's words."""
    return TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")


def error_body(error: HostError, request_id: str) -> bytes:
    """Return the JSON of an error."""
    content: dict[str, Any] = {
        "message": error.message,
        "type": error_type(error.status),
        "param": error.param,
        "code": error.code,
        "request_id": request_id,
    }
    if error.retry_after is not None:
        content["retry_after"] = round(error.retry_after, 3)
    if error.details:
        content["details"] = error.details
    return msgspec.json.encode({"error": content})


def with_error_format(own: request_context.Envelope, endpoint: Endpoint, *, request_id: istr | None = None) -> Endpoint:
    """Return ``endpoint`` with the errors of its protocol; this goes before all that may refuse a request.

    ``request_id`` is the header that the protocol has for the request's number, beside ``X-Request-ID``.
    """

    async def run(request: web.Request) -> web.StreamResponse:
        current = request_context.current.get()
        current.error_body = own
        current.also = request_id
        return await endpoint(request)

    return run


def error_response(error: HostError, request_id: str, own: request_context.Envelope | None = None) -> web.Response:
    """Return the whole answer for an error, in the protocol's ``own`` envelope where it has one."""
    headers = {hdrs.CONTENT_TYPE: JSON, "x-should-retry": "true" if error.retryable else "false"}
    if error.retry_after is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after)))
    elif error.retryable and error.status in BUSY:
        headers[hdrs.RETRY_AFTER] = "1"
    if error.status == 401:
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return web.Response(status=error.status, body=(own or error_body)(error, request_id), headers=headers)


def to_host_error(error: Exception, request_id: str) -> HostError:
    """Return the error to show for ``error``; one that nobody has foreseen goes to the log with its traceback."""
    if isinstance(error, HostError):
        return error
    if isinstance(error, web.RequestPayloadError):
        return BadRequest(f"the body cannot be read: {error}")
    log.error("unforeseen error", exc_info=error, extra={"fields": {"request_id": request_id}})
    return HostError(f"the host failed on this request; its log has the details under {request_id}")


def error_middleware() -> Middleware:
    """Return the outermost middleware: numbers each request, and renders what it raises."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        current = request_context.begin(request)
        try:
            response = await handler(request)
        except web.HTTPException as refusal:
            response = _refusal(request, refusal, current.request_id)
        except Exception as error:
            if request.transport is None or request.transport.is_closing():
                raise  # the client has gone, and nobody reads an answer
            # No name for what is shown: the traceback has this frame, and each would keep the other.
            response = error_response(to_host_error(error, current.request_id), current.request_id, current.error_body)
        if not response.prepared:
            current.stamp(response.headers)
        return response

    return answer


async def handle_expect_header(request: web.Request) -> web.StreamResponse | None:
    """Answer an ``Expect`` header, which aiohttp does before any middleware."""
    if request.headers[hdrs.EXPECT].lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None
    current = request_context.begin(request)
    response = error_response(BadRequest("Expect takes 100-continue only"), current.request_id)
    response.set_status(417)
    current.stamp(response.headers)
    return response


def _refusal(request: web.Request, refusal: web.HTTPException, request_id: str) -> web.StreamResponse:
    """Return the answer for what aiohttp itself refuses."""
    error: HostError
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        methods = ", ".join(sorted(refusal.allowed_methods))
        error = MethodNotAllowed(f"{request.path} does not take {request.method}; it takes {methods}")
        response = error_response(error, request_id)
        response.headers[hdrs.ALLOW] = methods
        return response
    if isinstance(refusal, web.HTTPNotFound):
        error = NotFound(f"there is nothing at {request.path}; GET /v1/handlers lists the handlers")
        return error_response(error, request_id)
    if refusal.status < 400:
        raise refusal
    error = BadRequest(f"{request.method} {request.path}: {refusal.reason}")
    response = error_response(error, request_id)
    response.set_status(refusal.status)
    return response
