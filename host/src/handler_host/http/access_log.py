"""Access log: one line for each request, and a record of each failed one.

``[log]`` chooses the lines: ``requests``, ``requests_level``, ``requests_sample`` and ``failures_level``. The failure
records for ``handler-host why`` do not depend on it.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable

from aiohttp import web

from handler_host._internal.log import format_time
from handler_host.config import LogConfig
from handler_host.http.client_address import address_of
from handler_host.http.request_context import RequestContext
from handler_host.telemetry.counters import CANCELLED
from handler_host.telemetry.failures import FailureRecord, FailureRing, FailureText

log = logging.getLogger("handler_host.access")

CLIENT_GONE = 499
"""Status in the log for a client that disconnected before its response (as nginx logs it)."""
MAX_PATH = 100
"""Characters of the path of an unknown route."""
UNPARSED = "not HTTP"
"""Route of data that is not an HTTP request."""
_HOST_PROTOCOL = "host"
"""Protocol of the routes for operators and machines: health, metrics, admin, dashboard."""


class AccessLog:
    """Log of all requests; ``settings`` returns ``[log]`` as it is now."""

    def __init__(self, failures: FailureRing, settings: Callable[[], LogConfig]) -> None:
        self._failures = failures
        self._settings = settings
        self._sampled = 0.0

    def write(self, request: web.Request, context: RequestContext, response: web.StreamResponse | None) -> None:
        """Log a request at its end; ``response`` is None if the client disconnected."""
        failure = context.failure
        if failure is None and response is None:
            failure = FailureText(CANCELLED, CLIENT_GONE, "the client disconnected before the end of its response")
        settings = self._settings()
        if failure is None:
            assert response is not None, "a request without a response has failed"
            level = self._success_level(settings, context)
            if level and log.isEnabledFor(level):
                _write(level, "request", _fields(request, context, response))
            return
        is_closed_page = failure.code == CANCELLED and context.operator is not None
        if not is_closed_page:  # the stream of events ends so, each time
            self._add_record(request, context, response, failure)
        if settings.requests == "none":
            return
        level = logging.INFO if failure.code == CANCELLED else getattr(logging, settings.failures_level.upper())
        if log.isEnabledFor(level):
            fields = _fields(request, context, response)
            fields |= {"status": _status(response, failure), "code": failure.code, "error": failure.message}
            cause = _cause(context, failure)
            if cause is not None:
                fields["cause"] = cause
            if len(context.failed_attempts) > 1:
                fields["attempts"] = [f"{attempt.handler}: {attempt.code}" for attempt in context.failed_attempts]
            fields["client"] = address_of(request)
            _write(level, "request failed", fields)

    def write_unparsed(self, request_id: str, client: str, failure: FailureText) -> None:
        """Log data of a client that is not an HTTP request, or not a whole one."""
        self._failures.add(
            FailureRecord(
                request_id=request_id,
                at=format_time(datetime.datetime.now(datetime.UTC)),
                client=client,
                method="",
                route=UNPARSED,
                protocol=_HOST_PROTOCOL,
                consumer=None,
                handler=None,
                model=None,
                status=failure.status,
                code=failure.code,
                message=failure.message,
                cause=failure.cause,
                attempts=[],
                queue_s=None,
                activate_s=None,
                first_chunk_s=None,
                total_s=0.0,
            )
        )
        settings = self._settings()
        level: int = getattr(logging, settings.failures_level.upper())
        if settings.requests != "none" and log.isEnabledFor(level):
            fields: dict[str, object] = {"request_id": request_id, "protocol": _HOST_PROTOCOL, "route": UNPARSED}
            fields |= {"status": failure.status, "code": failure.code, "error": failure.message, "client": client}
            _write(level, "request failed", fields)

    def _success_level(self, settings: LogConfig, context: RequestContext) -> int:
        """Return the level of a successful request; 0 if it is not logged."""
        if settings.requests != "all":
            return logging.NOTSET
        if context.protocol is None:
            return logging.DEBUG
        self._sampled += settings.requests_sample
        if self._sampled < 1.0:
            return logging.NOTSET
        self._sampled -= 1.0
        level: int = getattr(logging, settings.requests_level.upper())
        return level

    def _add_record(
        self, request: web.Request, context: RequestContext, response: web.StreamResponse | None, failure: FailureText
    ) -> None:
        self._failures.add(
            FailureRecord(
                request_id=context.request_id,
                at=format_time(datetime.datetime.now(datetime.UTC)),
                client=address_of(request),
                method=request.method,
                route=_route(request),
                protocol=context.protocol or _HOST_PROTOCOL,
                consumer=context.consumer.name if context.consumer is not None else None,
                handler=context.handler,
                model=context.model,
                status=_status(response, failure),
                code=failure.code,
                message=failure.message,
                cause=_cause(context, failure),
                attempts=context.failed_attempts,
                queue_s=context.queue_s,
                activate_s=context.activate_s,
                first_chunk_s=context.first_chunk_s,
                total_s=context.total_s(),
            )
        )


ACCESS_LOG = web.AppKey("ACCESS_LOG", AccessLog)
"""Key of the access log in an application."""


def _write(level: int, event: str, fields: dict[str, object]) -> None:
    """Log an event of the level, which is enabled.

    ``Logger.log`` searches the stack for the line of its caller, which costs a fifth of the event (``make
    bench-dispatch``) and is not shown.
    """
    log.handle(log.makeRecord(log.name, level, __file__, 0, event, (), None, extra={"fields": fields}))


def _fields(request: web.Request, context: RequestContext, response: web.StreamResponse | None) -> dict[str, object]:
    fields: dict[str, object] = {"request_id": context.request_id}
    if context.consumer is not None:
        fields["consumer"] = context.consumer.name
    elif context.operator is not None:
        fields["operator"] = context.operator
    fields["protocol"] = context.protocol or _HOST_PROTOCOL
    fields["route"] = f"{request.method} {_route(request)}"
    if context.handler is not None:
        fields["handler"] = context.handler
    operation = request.match_info.get("operation")
    if operation is not None and context.handler is not None:
        fields["operation"] = operation[:MAX_PATH]
    if context.model is not None:
        fields["model"] = context.model
    if response is not None:
        fields["status"] = response.status
    if context.queue_s is not None:
        fields["queue_s"] = context.queue_s
        fields["activate_s"] = context.activate_s
    if context.first_chunk_s is not None:
        fields["first_chunk_s"] = context.first_chunk_s
    fields["total_s"] = context.total_s()
    if context.tokens is not None:
        fields["tokens_in"], fields["tokens_out"] = context.tokens
    fields["bytes_in"] = request.content.total_bytes
    if response is not None:
        fields["bytes_out"] = _length(response)
    return fields


def _route(request: web.Request) -> str:
    """Return the pattern of the route, or the start of an unknown path."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else request.path[:MAX_PATH]


def _length(response: web.StreamResponse) -> int | None:
    if not isinstance(response, web.Response):
        return response.body_length
    # aiohttp's property asks an abstract class first, which costs more than the rest of the fields together.
    return len(response.body) if isinstance(response.body, bytes) else response.content_length


def _status(response: web.StreamResponse | None, failure: FailureText) -> int:
    return failure.status if response is None else response.status


def _cause(context: RequestContext, failure: FailureText) -> str | None:
    """Return the cause of a failure: its own, or that of the last attempt with the same code."""
    if failure.cause is not None:
        return failure.cause
    return next((a.cause for a in reversed(context.failed_attempts) if a.code == failure.code and a.cause), None)
