"""From a request to a call of a handler, and back: leases, deadlines, streams; and the native routes.

The native routes are ``GET /v1/handlers``, ``GET /v1/handlers/{name}`` and
``POST /v1/handlers/{name}/{operation}``, which answers with JSON, or with
server-sent events for a client that accepts ``text/event-stream``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

import msgspec
from aiohttp import hdrs, web

from handler_host.channel.call import Call
from handler_host.dispatch.fallback import (
    Fallbacks,
    request_for_fallback,
    should_fall_back,
    should_try_next,
    with_fallback_errors,
)
from handler_host.dispatch.recorder import DispatchRecorder
from handler_host.http import request_context
from handler_host.http.errors import JSON, error_body, to_host_error
from handler_host.http.request_limits import RequestLimits
from handler_host.http.sse import SseResponse, event
from handler_host.lifecycle.admission import LeaseContext
from handler_host.lifecycle.lease import Lease
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import Forbidden, HandlerCrashed, HostError

log = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")
Attempt = Callable[[str, str, bytes, float], Awaitable[Outcome]]
"""Asks one handler: its name, the operation, the body, and the deadline on the clock of ``time.monotonic``."""

EVENT_STREAM = "text/event-stream"
JSON_HEADERS = {hdrs.CONTENT_TYPE: JSON}
END = event(b"{}", "end")
"""The data of the event that ends a whole stream."""


class _OpenStream(NamedTuple):
    """A stream whose first pieces have come."""

    admission: LeaseContext
    tally: DispatchRecorder
    chunks: list[bytes]
    call: Call


class Dispatcher:
    """Runs dispatches: one request to one operation of one handler, from admission to the last byte.

    None is run twice, unless its operation is marked ``retry_on_crash`` in the manifest:
    then once more, if its worker ended before anything of the answer was there.
    ``timeout`` is ``server.request_timeout`` in seconds: for the handler that is asked and
    its fallbacks together.
    """

    def __init__(self, supervisor: Supervisor, timeout: float) -> None:
        self._supervisor = supervisor
        self._timeout = timeout
        self._counters = supervisor.observation.counters
        self._fallbacks = Fallbacks(lambda: supervisor.config)

    async def answer(self, name: str, operation: str, body: bytes) -> bytes:
        """Return the whole response as JSON; raises the ``HostError`` of a refusal or failure."""
        return await self._with_fallback(self._response, name, operation, body)

    @asynccontextmanager
    async def stream(self, name: str, operation: str, body: bytes) -> AsyncIterator[tuple[list[bytes], Call]]:
        """Give the first pieces of a stream (none: it is empty) and the call, which has those that follow.

        They are there when the block is entered: what goes wrong before is raised,
        and can be an answer with a status of its own. What has not come when the
        block is left is cancelled.
        """
        begun = await self._with_fallback(self._open_stream, name, operation, body)
        failure: HostError | None = None
        try:
            yield begun.chunks, begun.call
        except HostError as error:
            failure = error
            raise
        finally:
            begun.tally.end()
            begun.admission.release()
            begun.tally.close(failure)

    async def _response(self, name: str, operation: str, body: bytes, deadline: float) -> bytes:
        admission = self._admission(name, operation, deadline)
        with DispatchRecorder(self._counters, name, admission.operation) as tally:
            async with admission as lease:
                call = self._call(lease, operation, body, deadline, streamed=False)
                tally.begin(lease, call, operation)
                try:
                    return await call.read_response()
                finally:
                    tally.end()

    async def _open_stream(self, name: str, operation: str, body: bytes, deadline: float) -> _OpenStream:
        admission = self._admission(name, operation, deadline)
        tally = DispatchRecorder(self._counters, name, admission.operation)
        tally.open()
        try:
            lease = await admission.__aenter__()
            try:
                call = self._call(lease, operation, body, deadline, streamed=True)
                tally.begin(lease, call, operation)
                chunks = await call.read_chunks()
                tally.first_chunk()
            except BaseException:
                tally.end()
                admission.release()
                raise
        except BaseException as error:
            tally.close(error)
            raise
        return _OpenStream(admission, tally, chunks, call)

    async def _with_fallback(self, attempt: Attempt[Outcome], name: str, operation: str, body: bytes) -> Outcome:
        """Return what ``attempt`` gives for the handler, or for the first of its fallbacks that does not fail."""
        deadline = time.monotonic() + self._timeout
        try:
            return await self._with_crash_retry(attempt, name, operation, body, deadline)
        except HostError as error:
            others = self._fallbacks.of(name) if should_fall_back(error) else []
            if not others:
                raise
            # Anew: what was raised has this frame in its traceback, and each would keep the other.
            first = error.copy()
        return await self._try_fallbacks(
            attempt, name, others, operation, request_for_fallback(operation, body), deadline, first
        )

    async def _try_fallbacks(
        self,
        attempt: Attempt[Outcome],
        name: str,
        others: list[str],
        operation: str,
        body: bytes,
        deadline: float,
        first: HostError,
    ) -> Outcome:
        current = request_context.current.get()
        failures: dict[str, HostError] = {}
        last = first
        for other in others:
            if time.monotonic() >= deadline:
                break
            fields = {"handler": name, "error": last.code, "fallback": other, "request_id": current.request_id}
            log.warning("fallback", extra={"fields": fields})
            try:
                return await self._with_crash_retry(attempt, other, operation, body, deadline)
            except HostError as error:
                failures[other] = last = error.copy()
                if not should_try_next(error):
                    break
        # It was this one that was asked; who else was is told in the message.
        current.handler = name
        raise with_fallback_errors(first, failures) if failures else first.copy()

    async def _with_crash_retry(
        self, attempt: Attempt[Outcome], name: str, operation: str, body: bytes, deadline: float
    ) -> Outcome:
        try:
            return await attempt(name, operation, body, deadline)
        except HandlerCrashed:
            if not self._supervisor.is_retryable(name, operation):
                raise
        return await attempt(name, operation, body, deadline)

    def _admission(self, name: str, operation: str, deadline: float) -> LeaseContext:
        consumer = request_context.current.get().consumer
        if consumer is not None and not consumer.allows(name):
            self._counters.refused[consumer.name, "handler"] += 1
            raise Forbidden(f"the key {consumer.name!r} is not for the handler {name[:100]!r}", param="handler")
        admission = self._supervisor.lease(name, operation, max(0.0, deadline - time.monotonic()))
        request_context.current.get().asked(name)
        return admission

    def _call(self, lease: Lease, operation: str, body: bytes, deadline: float, *, streamed: bool) -> Call:
        current = request_context.current.get()
        current.dispatched(lease.queue_seconds, lease.activate_seconds)
        left = max(0.0, deadline - time.monotonic())
        return lease.call(
            operation,
            body,
            streamed=streamed,
            request_id=current.request_id,
            timeout=left,
            traceparent=current.traceparent,
        )


def json_answer(content: object, status: int = 200) -> web.Response:
    """Return ``content`` as JSON; it is made of msgspec's structs and of what JSON knows."""
    return web.Response(status=status, body=msgspec.json.encode(content), headers=JSON_HEADERS)


class NativeRoutes:
    """The routes of this project's own shape."""

    def __init__(self, supervisor: Supervisor, dispatcher: Dispatcher, limits: RequestLimits) -> None:
        self._supervisor = supervisor
        self._dispatcher = dispatcher
        self._limits = limits

    def routes(self) -> list[web.RouteDef]:
        """Return them, for the composition root to guard and to add."""
        return [
            # First what is asked most: aiohttp tries routes of one prefix in their order.
            web.post("/v1/handlers/{name}/{operation}", self.dispatch),
            web.get("/v1/handlers", self.list_handlers),
            web.get("/v1/handlers/{name}", self.show_handler),
        ]

    async def list_handlers(self, request: web.Request) -> web.StreamResponse:
        """All handlers, active or not."""
        allows = request_context.current.get().allows
        return json_answer({"handlers": [one for one in self._supervisor.statuses() if allows(one.name)]})

    async def show_handler(self, request: web.Request) -> web.StreamResponse:
        """One handler."""
        status = self._supervisor.status(request.match_info["name"])
        if not request_context.current.get().allows(status.name):
            raise Forbidden(f"this key is not for the handler {status.name!r}", param="handler")
        return json_answer(status)

    async def dispatch(self, request: web.Request) -> web.StreamResponse:
        """Run one operation: JSON in; JSON or a stream of events out."""
        match = request.match_info
        body = await self._limits.json_body(request)
        if EVENT_STREAM in request.headers.get(hdrs.ACCEPT, ""):
            return await self._stream(request, match["name"], match["operation"], body)
        answer = await self._dispatcher.answer(match["name"], match["operation"], body)
        return web.Response(body=answer, headers=JSON_HEADERS)

    async def _stream(self, request: web.Request, name: str, operation: str, body: bytes) -> web.StreamResponse:
        current = request_context.current.get()
        async with self._dispatcher.stream(name, operation, body) as (first, rest):
            async with SseResponse(request, current) as events:
                try:
                    chunks = first
                    while chunks:
                        await events.send(chunks)
                        chunks = await rest.read_chunks()
                except ConnectionError:
                    raise  # the client has gone
                except Exception as error:  # noqa: BLE001 - the status is sent: any error becomes an event
                    told = error_body(to_host_error(error, current.request_id), current.request_id)
                    await events.send_events([event(told, "error")])
                else:
                    await events.send_events([END])
            return events.response
