"""An answer as server-sent events, written as fast as the client reads."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from aiohttp import hdrs, web

from handler_host.http.request_context import RequestContext

KEEP_ALIVE_INTERVAL = 15.0
"""Seconds of silence after which a comment tells proxies that the stream is alive."""
KEEP_ALIVE = b": keep-alive\n\n"
CLIENT_STALL = 60.0
"""Seconds after which a client that takes nothing of what is written is given up."""
SHORTEST_LOOK = 1.0
"""Seconds between two looks at a client that is behind."""


def event(data: bytes, name: str | None = None) -> bytes:
    """Return one event for :meth:`SseResponse.send_events`; ``data`` is one line."""
    return b"data: " + data if name is None else b"event: " + name.encode() + b"\ndata: " + data


class SseResponse:
    """A stream of events to one client; enter it to send the head.

    While nothing is written a comment goes out now and then. A client that stops
    reading is disconnected in the end, as it would keep the handler busy for ever.
    """

    content_type = "text/event-stream; charset=utf-8"
    separator = b"\n\n"
    """What ends an event."""
    comment = KEEP_ALIVE
    """What says nothing, between two events."""

    def __init__(self, request: web.Request, exchange: RequestContext) -> None:
        self._request = request
        self._exchange = exchange
        self._response = web.StreamResponse()
        self._loop = asyncio.get_running_loop()
        self._written_at = 0.0
        self._writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Send the head."""
        headers = self._response.headers
        headers[hdrs.CONTENT_TYPE] = self.content_type
        headers[hdrs.CACHE_CONTROL] = "no-cache"
        headers["X-Accel-Buffering"] = "no"
        self._exchange.stamp(headers)
        await self._response.prepare(self._request)
        self._written_at = self._loop.time()
        self._timer = self._loop.call_later(KEEP_ALIVE_INTERVAL, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the body, unless the client has gone or an error cuts it off."""
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is not None and not self._comment.done():
            self._comment.cancel()
            await asyncio.wait([self._comment])
        if error is None:
            await self._response.write_eof()

    @property
    def response(self) -> web.StreamResponse:
        """The answer as aiohttp knows it."""
        return self._response

    async def send(self, chunks: list[bytes]) -> None:
        """Write events, each of one line of JSON; returns when the client has taken enough of what was written before.

        Raises ``ConnectionError`` when the client has gone.
        """
        await self._write(b"data: " + b"\n\ndata: ".join(chunks) + b"\n\n")

    async def send_events(self, events: list[bytes]) -> None:
        """Write what :func:`event` has made, as :meth:`send` does; nothing for an empty list."""
        if events:
            await self._write(self.separator.join(events) + self.separator)

    async def _write(self, data: bytes) -> None:
        self._writing = True
        self._written_at = self._loop.time()
        try:
            await self._response.write(data)
        finally:
            self._writing = False

    def _look(self) -> None:
        """Break a long silence with a comment, and end a stall."""
        silent = self._loop.time() - self._written_at
        if self._writing or (self._comment is not None and not self._comment.done()):
            if silent >= CLIENT_STALL and self._request.transport is not None:
                self._request.transport.abort()
                return
        elif silent >= KEEP_ALIVE_INTERVAL:
            self._written_at = self._loop.time()
            self._comment = asyncio.create_task(self._write_comment(), name="keep-alive comment")
            silent = 0.0
        self._timer = self._loop.call_later(max(SHORTEST_LOOK, KEEP_ALIVE_INTERVAL - silent), self._look)

    async def _write_comment(self) -> None:
        try:
            await self._response.write(self.comment)
        except ConnectionError:
            return  # who sends the next event finds out
