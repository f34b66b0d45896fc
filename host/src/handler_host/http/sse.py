"""Responses as server-sent events, written as fast as the client reads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import TracebackType
from typing import Self

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

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
HALF_CLOSED_S = 2.0
"""Time until the next bytes of a response when the client has closed its side: most such clients have gone."""
RESET_CHECK_INTERVAL_S = 0.25
"""Time between two checks whether a client that has closed its side has reset the connection."""


def event(data: bytes, name: str | None = None) -> bytes:
    """Return one event for :meth:`SseResponse.send_events`; ``data`` is one line."""
    return DATA + data if name is None else b"event: " + name.encode() + b"\ndata: " + data


def _send_head(writer: AbstractStreamWriter) -> None:
    with contextlib.suppress(ConnectionError):  # the first event raises it
        writer.send_headers()


def _is_reset(transport: asyncio.BaseTransport) -> bool:
    """Return whether the peer has reset the connection; asyncio reads no more after the end of its data."""
    connection = transport.get_extra_info("socket")
    return connection is not None and connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


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
        self._half_closed_at = 0.0
        self._reset_timer: asyncio.TimerHandle | None = None
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
            self._request.protocol.on_half_close = self._on_half_close
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
        for timer in (self._timer, self._reset_timer):
            if timer is not None:
                timer.cancel()
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

    def _on_half_close(self) -> None:
        """Write a comment if one may stand here: a client that has gone responds with a reset."""
        self._half_closed_at = self._loop.time()
        self._send_comment()
        self._reset_timer = self._loop.call_later(RESET_CHECK_INTERVAL_S, self._check_reset)

    def _check_reset(self) -> None:
        """Disconnect a client that has reset the connection, or to which nothing can be written."""
        transport = self._request.transport
        if transport is None:
            return
        waited_s = self._loop.time() - self._half_closed_at
        is_silent = self._written_at < self._half_closed_at and not self._is_writing
        if _is_reset(transport) or (is_silent and waited_s >= HALF_CLOSED_S):
            transport.abort()
            return
        self._reset_timer = self._loop.call_later(RESET_CHECK_INTERVAL_S, self._check_reset)

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
