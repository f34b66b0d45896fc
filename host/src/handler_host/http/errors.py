"""Errors as responses, in the format of OpenAI's clients unless the route's protocol has its own.

``{"error": {"message", "type", "param", "code", "request_id"}}`` has the fields of OpenAI's errors with their
meaning, and adds the request ID, ``retry_after`` in seconds if there is one, and ``details``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import posixpath
import re
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import hdrs, http_exceptions, web
from aiohttp.typedefs import Handler, Middleware

from handler_host._internal.field_path import MAX_PATH_LENGTH, shorten
from handler_host.http import request_context
from handler_host.http.access_log import ACCESS_LOG, AccessLog
from handler_host.http.request_context import ErrorBody, RequestContext
from handler_host.http.responses import JSON
from handler_host.plugin.errors import (
    BadRequest,
    ConfigError,
    HandlerUnavailable,
    HeadersTooLarge,
    HostError,
    MethodNotAllowed,
    NotFound,
)

log = logging.getLogger(__name__)

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""OpenAI's type of an error, where it is not that of its class of statuses."""
MAX_MESSAGE_LENGTH = 4000
BUSY = frozenset({429, 503})
"""Statuses for which a retryable error always has ``Retry-After``."""


def error_type(status: int) -> str:
    """Return OpenAI's type of an error."""
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


def parse_error(error: BaseException | None, max_header: int, max_headers: int) -> HostError:
    """Return the error for data that aiohttp's parser refused with ``error``."""
    if isinstance(error, http_exceptions.LineTooLong):
        return HeadersTooLarge(f"the request line or a header is longer than {max_header} bytes (server.max_header)")
    if isinstance(error, http_exceptions.BadHttpMessage) and error.message.startswith("Too many headers"):
        return HeadersTooLarge(f"the request has more than {max_headers} headers")
    return BadRequest("not a valid HTTP request")


def error_response(error: HostError, request_id: str, body: ErrorBody = error_body) -> web.Response:
    """Return the response for an error; ``body`` is the format of the route's protocol."""
    headers = {hdrs.CONTENT_TYPE: JSON, "x-should-retry": "true" if error.retryable else "false"}
    if error.retry_after is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after)))
    elif error.retryable and error.status in BUSY:
        headers[hdrs.RETRY_AFTER] = "1"
    if error.status == 401:
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return web.Response(status=error.status, body=body(error, request_id), headers=headers)


def raw_error_response(error: HostError, request_id: str) -> bytes:
    """Return a whole response that closes its connection."""
    response = error_response(error, request_id)
    body = response.body
    assert isinstance(body, bytes)
    headers = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
    head = f"HTTP/1.1 {response.status} {response.reason}\r\n{headers}Connection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def to_host_error(error: Exception, context: RequestContext) -> HostError:
    """Return the error to send for ``error``; log an unexpected one with its traceback."""
    request_id = context.request_id
    if isinstance(error, HostError):
        _shorten(error)
        return error if context.consumer is None else _for_consumer(error, request_id)
    if isinstance(error, web.RequestPayloadError):
        return BadRequest(f"the body cannot be read: {error}")
    log.error("unexpected error", exc_info=error, extra={"fields": {"request_id": request_id}})
    return HostError(f"the host failed on this request; its log has the details under {request_id}")


def _for_consumer(error: HostError, request_id: str) -> HostError:
    """Return an error without the values of the configuration, which may be secrets; the log has them."""
    if not isinstance(error, ConfigError | HandlerUnavailable):
        return error
    log.error("%s", error.message, extra={"fields": {"request_id": request_id, "code": error.code}})
    text = error.message.partition(": ")[0] if isinstance(error, HandlerUnavailable) else "the handler is misconfigured"
    return type(error)(f"{text}; the operator of this host finds the reason in its log under {request_id}")


def _shorten(error: HostError) -> None:
    """Shorten the texts of an error: they may quote a name or a value of a megabyte."""
    if len(error.message) > MAX_MESSAGE_LENGTH:
        error.message = shorten(error.message, MAX_MESSAGE_LENGTH)
    if error.param is not None and len(error.param) > MAX_PATH_LENGTH:
        error.param = shorten(error.param, MAX_PATH_LENGTH)


def error_middleware(access_log: AccessLog) -> Middleware:
    """Return the outermost middleware: it gives each request its context, turns errors into responses, and logs."""

    @web.middleware
    async def respond(request: web.Request, handler: Handler) -> web.StreamResponse:
        context = request_context.begin(request)
        try:
            response = await handler(request)
        except web.HTTPException as refusal:
            response = _refusal_response(request, refusal, context)
        except asyncio.CancelledError:
            access_log.write(request, context, None)
            raise
        except Exception as error:
            if request.transport is None or request.transport.is_closing():
                access_log.write(request, context, None)
                raise  # the client has gone
            # No name for the error that is sent: its traceback has this frame, and each would keep the other alive.
            response = error_response(
                context.fail(to_host_error(error, context)),
                context.request_id,
                context.error_body or error_body,
            )
        finally:
            if context.on_end is not None:
                context.on_end()
        if not response.prepared:
            context.write_headers(response.headers)
        access_log.write(request, context, response)
        return response

    return respond


async def handle_expect_header(request: web.Request) -> web.StreamResponse | None:
    """Refuse an unknown ``Expect`` header; aiohttp calls this before any middleware.

    ``100 Continue`` follows when the body is read: a client that is refused before does not send it.
    """
    if request.headers[hdrs.EXPECT].lower() == "100-continue":
        return None
    context = request_context.begin(request)
    error = context.fail(BadRequest("Expect must be 100-continue"), 417)
    response = error_response(error, context.request_id)
    response.set_status(417)
    context.write_headers(response.headers)
    access_log = request.config_dict.get(ACCESS_LOG)
    if access_log is not None:
        access_log.write(request, context, response)
    return response


def _refusal_response(request: web.Request, refusal: web.HTTPException, context: RequestContext) -> web.StreamResponse:
    """Return the response for what aiohttp itself refuses."""
    error: HostError
    request_id = context.request_id
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        methods = ", ".join(sorted(refusal.allowed_methods))
        hint = f"it takes {methods}"
        clean = _without_extra_slashes(request.path)
        if clean != request.path and _is_known(request.app.router, clean, request.method):
            hint = f"use {clean}, without the extra slash"
        error = MethodNotAllowed(f"{request.path} does not take {request.method}; {hint}")
        response = error_response(context.fail(error), request_id)
        response.headers[hdrs.ALLOW] = methods
        return response
    if isinstance(refusal, web.HTTPNotFound):
        hint = _path_hint(request.app.router, shorten(request.path, MAX_PATH_LENGTH))
        error = NotFound(f"there is nothing at {shorten(request.rel_url.raw_path, MAX_PATH_LENGTH)}; {hint}")
        return error_response(context.fail(error), request_id)
    if refusal.status < 400:
        raise refusal
    error = BadRequest(f"{request.method} {request.path}: {refusal.reason}")
    response = error_response(context.fail(error, refusal.status), request_id)
    response.set_status(refusal.status)
    return response


def _path_hint(router: web.UrlDispatcher, path: str) -> str:
    """Return what a client should do that used an unknown path: mostly its base URL lacks the version, or has two."""
    clean = _without_extra_slashes(path)
    if clean not in ("", path):
        return f"use {clean}, without the extra slash"
    plain = posixpath.normpath(unquote(path)).strip().lower()
    if _is_known(router, plain):
        return f"use {plain}, without escapes, dots, spaces or capitals"
    versions = [match.start() for match in re.finditer("/(?:v1|v1beta|api)(?=/)", path)]
    candidates = [f"/v1{path}", *(path[start:] for start in versions[-1:])]
    match = next((candidate for candidate in candidates if _is_known(router, candidate)), None)
    return f"did you mean {match} (the client's base URL)?" if match else "GET /v1/handlers lists the handlers"


def _without_extra_slashes(path: str) -> str:
    return re.sub("/+", "/", path).rstrip("/")


def _is_known(router: web.UrlDispatcher, path: str, method: str | None = None) -> bool:
    for resource in router.resources():
        place = resource.get_info()
        has_path = place.get("path") == path or ("pattern" in place and place["pattern"].fullmatch(path))
        if has_path and (method is None or any(route.method == method for route in resource)):
            return True
    return False
