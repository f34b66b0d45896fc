"""From a request to a call of a handler, and back: leases, deadlines, streams; and the native routes.

The native routes are ``GET /v1/handlers``, ``GET /v1/handlers/{name}`` and
``POST /v1/handlers/{name}/{operation}``, which answers with JSON, or with
server-sent events for a client that accepts ``text/event-stream``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from aiohttp import hdrs, web

from host import exchange
from host.admission import Admission
from host.call import Call
from host.errors import Forbidden
from host.event_stream import EventStream, event
from host.http_errors import JSON, envelope, foreseen
from host.lease import Lease
from host.request_limits import RequestLimits
from host.supervisor import Supervisor
from host.tally import Tally

EVENT_STREAM = "text/event-stream"
JSON_HEADERS = {hdrs.CONTENT_TYPE: JSON}
END = event(b"{}", "end")
"""The data of the event that ends a whole stream."""


class Dispatcher:
    """Runs dispatches: one request to one operation of one handler, from admission to the last byte.

    ``timeout`` is ``server.request_timeout`` in seconds.
    """

    def __init__(self, supervisor: Supervisor, timeout: float) -> None:
        self._supervisor = supervisor
        self._timeout = timeout
        self._counters = supervisor.observation.counters

    async def answer(self, name: str, operation: str, body: bytes) -> bytes:
        """Return the whole answer as JSON; raises the :class:`host.errors.HostError` of a refusal or failure."""
        admission = self._admission(name, operation)
        with Tally(self._counters, name, admission.operation) as tally:
            async with admission as lease:
                call = self._call(lease, operation, body, streamed=False)
                tally.begin(lease, call, operation)
                try:
                    return await call.answer()
                finally:
                    tally.end()

    @asynccontextmanager
    async def stream(self, name: str, operation: str, body: bytes) -> AsyncIterator[tuple[list[bytes], Call]]:
        """Give the first pieces of a stream (none: it is empty) and the call, which has those that follow.

        They are there when the block is entered: what goes wrong before is raised,
        and can be an answer with a status of its own. What has not come when the
        block is left is cancelled.
        """
        admission = self._admission(name, operation)
        with Tally(self._counters, name, admission.operation) as tally:
            async with admission as lease:
                call = self._call(lease, operation, body, streamed=True)
                tally.begin(lease, call, operation)
                try:
                    first = await call.pieces()
                    tally.first_piece()
                    yield first, call
                finally:
                    tally.end()

    def _admission(self, name: str, operation: str) -> Admission:
        consumer = exchange.current.get().consumer
        if consumer is not None and not consumer.allows(name):
            self._counters.refused[consumer.name, "handler"] += 1
            raise Forbidden(f"the key {consumer.name!r} is not for the handler {name[:100]!r}", param="handler")
        admission = self._supervisor.lease(name, operation, self._timeout)
        exchange.current.get().asked(name)
        return admission

    def _call(self, lease: Lease, operation: str, body: bytes, *, streamed: bool) -> Call:
        current = exchange.current.get()
        current.dispatched(lease.queue_seconds, lease.activate_seconds)
        left = max(0.0, self._timeout - (time.monotonic() - lease.asked_at))
        return lease.call(operation, body, streamed=streamed, request_id=current.request_id, timeout=left)


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
        allows = exchange.current.get().allows
        return json_answer({"handlers": [one for one in self._supervisor.statuses() if allows(one.name)]})

    async def show_handler(self, request: web.Request) -> web.StreamResponse:
        """One handler."""
        status = self._supervisor.status(request.match_info["name"])
        if not exchange.current.get().allows(status.name):
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
        current = exchange.current.get()
        async with self._dispatcher.stream(name, operation, body) as (first, rest):
            async with EventStream(request, current) as events:
                try:
                    pieces = first
                    while pieces:
                        await events.send(pieces)
                        pieces = await rest.pieces()
                except ConnectionError:
                    raise  # the client has gone
                except Exception as error:  # noqa: BLE001 - the status is sent: any error becomes an event
                    shown = foreseen(error, current.request_id)
                    await events.send_events([event(envelope(shown, current.request_id), "error")])
                else:
                    await events.send_events([END])
            return events.response
