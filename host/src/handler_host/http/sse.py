"""Responses as server-sent events, written as fast as the client reads."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from handler_host.http.request_context import RequestContext

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE_INTERVAL_S = 15.0
"""Silence after which a comment shows proxies that the stream is alive."""
DATA = b"data: "
"""Start of an event without a name."""
KEEP_ALIVE = b": keep-alive\n\n"
CLIENT_STALL_S = 60.0
"""Time after which a client that reads nothing is disconnected, also from a response that is not a stream."""
MIN_CHECK_INTERVAL_S = 1.0
"""Time between two checks of a client that is behind."""


def event(data: bytes, name: str | None = None) -> bytes:
    """Return one event for :meth:`SseResponse.send_events`; ``data`` is one line."""
    return DATA + data if name is None else b"event: " + name.encode() + b"\ndata: " + data


def _send_head(writer: AbstractStreamWriter) -> None:
    with contextlib.suppress(ConnectionError):  # the first event raises it
        writer.send_headers()


class _BufferedHeadResponse(web.StreamResponse):
    """Response whose head waits for the first write: aiohttp has an attribute for it, set for whole responses only."""

    _send_headers_immediately = False


class SseResponse:
    """Stream of events to one client; enter it to send the head.

    A comment breaks a long silence. A client that stops reading is disconnected after a time, because it would
    keep the handler busy without end.
    """

    content_type = f"{EVENT_STREAM}; charset=utf-8"
    separator = b"\n\n"
    """End of an event."""
    comment = KEEP_ALIVE
    """Bytes without a meaning, to be sent between two events."""

    def __init__(self, request: web.Request, context: RequestContext) -> None:
        self._request = request
        self._context = context
        self._response = _BufferedHeadResponse()
        self._loop = asyncio.get_running_loop()
        self._written_at = 0.0
        self._is_writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Send the head."""
        headers = self._response.headers
        headers[hdrs.CONTENT_TYPE] = self.content_type
        headers[hdrs.CACHE_CONTROL] = "no-cache"
        headers["X-Accel-Buffering"] = "no"
        self._context.write_headers(headers)
        if self._request.version < HttpVersion11:
            self._response.force_close()  # without chunks only the end of the connection ends the body
        if hasattr(self._request.protocol, "on_half_close"):
            self._request.protocol.on_half_close = self._send_comment
        writer = await self._response.prepare(self._request)
        assert writer is not None, "a new response has not ended"
        # With the first event in one segment, or alone if that is not written in this turn of the loop.
        self._loop.call_soon(_send_head, writer)
        self._written_at = self._loop.time()
        self._timer = self._loop.call_later(KEEP_ALIVE_INTERVAL_S, self._check)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the body, unless the client has gone or an error cuts it off."""
        if hasattr(self._request.protocol, "on_half_close"):
            self._request.protocol.on_half_close = None
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is not None and not self._comment.done():
            self._comment.cancel()
            await asyncio.wait([self._comment])
        if error is None:
            await self._response.write_eof()

    @property
    def response(self) -> web.StreamResponse:
        """Response for aiohttp."""
        return self._response

    async def send(self, chunks: list[bytes]) -> None:
        """Write events, each of one line of JSON; return when the client has read enough of what was written before.

        Raises ``ConnectionError`` when the client has gone.
        """
        await self._write(b"data: " + b"\n\ndata: ".join(chunks) + b"\n\n")

    async def send_events(self, events: list[bytes]) -> None:
        """Write events made by :func:`event`, as :meth:`send` does; nothing for an empty list."""
        if events:
            await self._write(self.separator.join(events) + self.separator)

    def may_comment(self) -> bool:
        """Return whether a comment may be sent now."""
        return True

    async def _write(self, data: bytes) -> None:
        self._is_writing = True
        self._written_at = self._loop.time()
        try:
            await self._response.write(data)
        finally:
            self._is_writing = False

    def _check(self) -> None:
        """Break a long silence with a comment, and disconnect a client that has stalled."""
        silent_s = self._loop.time() - self._written_at
        if self._is_writing or (self._comment is not None and not self._comment.done()):
            if silent_s >= CLIENT_STALL_S and self._request.transport is not None:
                self._request.transport.abort()
                return
        elif silent_s >= KEEP_ALIVE_INTERVAL_S:
            self._send_comment()
            silent_s = 0.0
        self._timer = self._loop.call_later(max(MIN_CHECK_INTERVAL_S, KEEP_ALIVE_INTERVAL_S - silent_s), self._check)

    def _send_comment(self) -> None:
        """Write a comment, unless a write is in progress or no comment may stand here."""
        if self.may_comment() and not self._is_writing and (self._comment is None or self._comment.done()):
            self._written_at = self._loop.time()
            self._comment = asyncio.create_task(self._write_comment(), name="keep-alive comment")

    async def _write_comment(self) -> None:
        try:
            await self._response.write(self.comment)
        except ConnectionError:
            return  # the next event raises it
