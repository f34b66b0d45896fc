"""Connections of clients: their limit, their loss (then ``channel/call.py``), and responses to what is not HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from operator import itemgetter
from typing import Any, cast

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from handler_host.config import ServerConfig
from handler_host.http import request_context
from handler_host.http.access_log import AccessLog
from handler_host.http.errors import error_response, parse_error, raw_error_response, to_host_error
from handler_host.http.sse import CLIENT_STALL_S, HALF_CLOSED_S
from handler_host.memory.trim import HeapTrimmer
from handler_host.plugin.errors import BadRequest, HeadersTooLarge, HostError, RequestTimeout, TooManyConnections
from handler_host.telemetry.failures import FailureText

CONNECTIONS_PER_REQUEST = 2
"""Connections for each request that may be in flight: clients keep some open for their next request."""
MAX_HEADERS = 128
HEADERS_PER_HEAD = 4
"""Multiple of ``server.max_header`` that all headers of a request may have together."""
MIN_HEAD_LIMIT = 64 * 1024
"""Bytes that all headers of a request may have in any case."""
MAX_UNFINISHED_BYTES = 8 * 1024 * 1024
"""Most bytes of all requests together whose headers have not ended; nearly all arrive in one piece and never count."""
EVICTABLE_AFTER_S = 1.0
"""Time without a request after which a connection may be closed for another one; until then its client may send one."""
READ_BUFFER_BYTES = 16 * 1024
"""Bytes of a body that wait for their reader; one chunk for each 16 of them, so that a turn parses few tiny chunks."""
LENGTH_BUFFER_BYTES = 128 * 1024
"""The same for a body without chunks: one of up to twice as many bytes arrives whole with its head."""
READ_BYTES = 256 * 1024
"""Bytes that a connection reads in a turn where a request begins: most requests arrive whole."""
FIRST_READ_BYTES = 64 * 1024
"""The same for the first request: 140 clients can connect in the same turn, each for the price of such a read."""
PART_READ_BYTES = 32 * 1024
"""The same within a head, a body and what is discarded: with more, 140 clients take 100 ms of a health check."""
LINGERING_TIME_S = 2.0
"""Time in which a client may still send data that is not read any more, before the connection is closed."""
REFUSED_TIME_S = 0.25
"""Time in which a client reads why its head is refused; the rest is not read: 1.9 MB would cost most of a refusal."""


class Connection(web.RequestHandler):
    """One connection; unlike aiohttp's it counts itself, and sends errors in the host's format."""

    __slots__ = (
        "_body",
        "_framing_bytes",
        "_head_bytes",
        "_head_timer",
        "_is_discarding",
        "_is_resuming",
        "_listener",
        "_refused",
        "address",
        "admin",
        "on_half_close",
    )

    def __init__(self, listener: Listener, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._listener = listener
        self._refused = False
        self._body: StreamReader | None = None
        """Body of the last request; the next head begins when it has ended."""
        self._framing_bytes = 0
        """Bytes of the last body that are not its content: sizes and extensions of chunks, trailers."""
        self._is_resuming = False
        self._head_bytes = 0
        """Bytes of a head that has not ended yet."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_discarding = False
        """Whether what arrives is discarded: the connection waits for its response, and for the client to close it."""
        self.address: str | None = None
        """IP address of the client, if connections per address are limited."""
        self.on_half_close: Callable[[], None] | None = None
        """Called when the client sends no more while a stream is sent: a write shows whether it still reads."""
        self.admin = listener.admin
        """Whether it has come to ``admin.listen``."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or refuse it at the limit (asyncio)."""
        transport = cast(asyncio.Transport, transport)  # of a loop that may not be asyncio's own
        refusal = self._listener.admit(self, transport)
        self._refused = refusal is not None
        if refusal is not None:
            self.close()  # stop reading
            transport.write(refusal)
            transport.close()
            return
        super().connection_made(transport)
        self._limit_reads(FIRST_READ_BYTES)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            # The kernel ends a connection whose client reads nothing for so long, whatever the host waits for.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(CLIENT_STALL_S * 1000))

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's closes the connection
        """Finish the response in progress for a client that only ends its own side (asyncio).

        A client that has gone looks the same until something is written to it.
        """
        if not self._is_busy:
            return False
        self.close()
        if self.on_half_close is not None:
            self.on_half_close()
        else:
            self._loop.call_later(HALF_CLOSED_S, self._leave_half_closed)
        # TLS has no half-closed connections: asyncio closes it after this.
        return self.transport is None or self.transport.get_extra_info("sslcontext") is None

    def _leave_half_closed(self) -> None:
        if self.transport is not None and self._request_in_progress and self.on_half_close is None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count the end (asyncio)."""
        if not self._refused:
            self._listener.leave(self)
            if self._is_in_body or self._head_bytes or self._is_discarding:
                self._listener.trimmer.schedule()
            self._end_head()
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser (asyncio), within the limits on the head of a request."""
        if not self._is_discarding:
            self._feed(data)
        is_within = self._is_in_body or self._head_bytes or self._is_discarding
        self._limit_reads(PART_READ_BYTES if is_within else READ_BYTES)

    def _limit_reads(self, size_bytes: int) -> None:
        if self.transport is not None and hasattr(self.transport, "max_size"):  # asyncio's own, without TLS
            self.transport.max_size = size_bytes

    def _feed(self, data: bytes) -> None:
        body = self._body
        in_head = body is None or body.is_eof()
        content_bytes = 0 if body is None else body.total_bytes
        count = self._request_count
        super().data_received(data)
        if self._request_count != count:
            message, self._body = self._messages[-1]
            if body is not None and not body.is_eof() and isinstance(message, _ErrInfo):
                self._messages.pop()
                self._refuse_body(body, parse_error(message.exc, self._listener.config.max_header, MAX_HEADERS))
                return
            head_bytes = self._head_bytes + len(data)
            self._framing_bytes = 0
            self._end_head()
            if head_bytes > self._listener.max_head and _size_of(message) > self._listener.max_head:
                error = HeadersTooLarge(self._listener.head_limit_text)
                self._messages[-1] = (_ErrInfo(status=error.status, exc=error, message=error.message), EMPTY_PAYLOAD)
            elif self._reading_paused and not isinstance(message, _ErrInfo) and not message.chunked:
                self._body.set_read_chunk_size(LENGTH_BUFFER_BYTES)
                super().resume_reading()
        elif data and in_head and not self._force_close:
            self._add_to_head(len(data))
        elif body is not None and not in_head:
            self._add_to_body(body, len(data), body.total_bytes - content_bytes)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the end of a response (aiohttp); chunks that arrive after it are discarded, not parsed."""
        is_body_unread = request._message.chunked and not request.content.is_eof()
        if is_body_unread:
            resp.force_close()
        result = await super().finish_response(request, resp, start_time)
        if is_body_unread:
            self._discard_body()
        return result

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Parse the data that waits in the next turn of the loop: at once, tiny chunks would keep it busy (aiohttp)."""
        is_whole = self._body is not None and self._body.is_eof() and not self._reading_paused
        if not resume_parser:  # at the end of a body: nothing waits
            super().resume_reading(resume_parser=False)
        elif not (is_whole or self._is_resuming):  # nothing waits behind a body that arrived whole
            self._is_resuming = True
            self._loop.call_soon(self._resume_reading)

    def _resume_reading(self) -> None:
        self._is_resuming = False
        if self.transport is not None:
            super().resume_reading()

    def _add_to_body(self, body: StreamReader, size_bytes: int, content_bytes: int) -> None:
        """Count the bytes of an unfinished body; refuse it if chunk sizes, extensions and trailers exceed its content.

        Each chunk costs the same, whatever its length: a million of one byte took 2.4 s of CPU.
        """
        self._framing_bytes += size_bytes - content_bytes
        if self._reading_paused or body.is_eof():  # a paused parser has data that it has not counted
            return
        limit_bytes = self._listener.max_head
        if self._framing_bytes > limit_bytes + body.total_bytes:
            text = f"have {limit_bytes} bytes more than the body's content"
            if content_bytes > size_bytes // 8:  # a chunk of one byte has six bytes in all
                self._refuse_body(body, BadRequest(f"the sizes of chunks {text}; send larger chunks"))
            else:
                self._refuse_body(body, HeadersTooLarge(f"trailers or chunk extensions {text}; send fewer"))

    def _refuse_body(self, body: StreamReader, error: HostError) -> None:
        """Raise an error in the reader of an unfinished body, and close the connection after the response."""
        body.set_exception(error)
        self._discard_body()

    def _discard_body(self) -> None:
        self._is_discarding = self._force_close = True  # no further request is read
        self.resume_reading(resume_parser=False)  # a client that cannot send the rest may not read the response
        self._loop.call_later(LINGERING_TIME_S, self.force_close)

    @property
    def _is_in_body(self) -> bool:
        return self._body is not None and not self._body.is_eof()

    @property
    def _is_busy(self) -> bool:
        """Whether a request is in progress, or about to be."""
        is_waiting = self._waiter is not None and not self._waiter.done()
        return bool(self._messages) or self._request_in_progress or (self._request_count > 0 and not is_waiting)

    @property
    def idle_since(self) -> float | None:
        """Time at which the connection began to wait for a request, on the loop's clock; None: it has one."""
        return None if self._is_busy else self._next_keepalive_close_time - self._keepalive_timeout

    def _add_to_head(self, size_bytes: int) -> None:
        """Count bytes of an unfinished head; refuse the connection at a limit."""
        self._head_bytes += size_bytes
        self._listener.unfinished_bytes += size_bytes
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._listener.config.body_timeout, self._refuse_slow_head)
        if self._head_bytes > self._listener.max_head:
            self._refuse(HeadersTooLarge(self._listener.head_limit_text))
        elif self._listener.unfinished_bytes > MAX_UNFINISHED_BYTES:
            self._refuse(TooManyConnections("too many clients send incomplete requests at the same time; try again"))

    def _end_head(self) -> None:
        if self._head_bytes:
            self._listener.unfinished_bytes -= self._head_bytes
            self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_slow_head(self) -> None:
        timeout_s = self._listener.config.body_timeout
        self._refuse(RequestTimeout(f"the headers did not arrive within {timeout_s:g} s (server.body_timeout)"))

    def _refuse(self, error: HostError) -> None:
        """Respond with an error and close the connection; without a response where another one is being sent."""
        self._end_head()
        if self.transport is None or self._request_in_progress or self._messages:
            self.force_close()
            return
        request_id = request_context.new_request_id()
        self._log_failure(error, request_id)
        self.transport.write(raw_error_response(error, request_id))
        self.transport.write_eof()
        # Closing it now would reset the connection, and the client would lose the response.
        self._is_discarding = True
        self.transport.pause_reading()
        self._head_timer = self._loop.call_later(REFUSED_TIME_S, self.force_close)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to data that cannot be read as a request (aiohttp)."""
        if isinstance(exc, ConnectionError):
            # Of a client that has gone, or a response that was cut off: the middleware has logged it.
            gone = web.Response(status=status)
            gone.force_close()
            return gone
        context = request_context.RequestContext(request_context.new_request_id())
        if status == 400:
            error = parse_error(exc, self._listener.config.max_header, MAX_HEADERS)
        else:
            error = to_host_error(exc if isinstance(exc, Exception) else RuntimeError(message), context)
        response = error_response(error, context.request_id)
        self._log_failure(error, context.request_id)
        context.write_headers(response.headers)
        response.force_close()
        return response

    def _log_failure(self, error: HostError, request_id: str) -> None:
        peer = self.transport.get_extra_info("peername") if self.transport is not None else None
        client = str(peer[0]) if isinstance(peer, tuple) else "unix socket"
        failure = FailureText(error.code, error.status, error.message)
        self._listener.access_log.write_unparsed(request_id, client, failure)


class Listener:
    """Factory of the connections of one server, for ``loop.create_server``."""

    def __init__(self, server: web.Server, config: ServerConfig, access_log: AccessLog, *, admin: bool = False) -> None:
        self.config = config
        self.access_log = access_log
        self.admin = admin
        self._server = server
        self._open: set[Connection] = set()
        self._addresses: Counter[str] = Counter()
        self.refusal = _refusal_of(
            f"the host has {CONNECTIONS_PER_REQUEST * config.max_connections} connections open (server.max_connections)"
        )
        """Whole response to a connection over the limit."""
        self.address_refusal = _refusal_of(
            f"this address has {config.max_connections_per_address} connections open "
            "(server.max_connections_per_address)"
        )
        self.max_head = max(MIN_HEAD_LIMIT, HEADERS_PER_HEAD * config.max_header)
        """Most bytes of the request line and all headers of a request together."""
        self.head_limit_text = (
            f"the headers have more than {self.max_head} bytes together "
            f"({HEADERS_PER_HEAD} times server.max_header, at least {MIN_HEAD_LIMIT})"
        )
        self.unfinished_bytes = 0
        """Bytes of all unfinished heads."""
        self.trimmer = HeapTrimmer()

    def admit(self, connection: Connection, transport: asyncio.Transport) -> bytes | None:
        """Count one more connection; return the response that refuses it at a limit.

        At the limit of all connections the one that has waited longest for a request is closed instead, so that idle
        connections do not keep others out.
        """
        per_address = self.config.max_connections_per_address
        if per_address is not None and (peer := transport.get_extra_info("peername")):
            address = str(peer[0]) if isinstance(peer, tuple) else "unix socket"
            if self._addresses[address] >= per_address:
                return self.address_refusal
            connection.address = address
        if len(self._open) >= CONNECTIONS_PER_REQUEST * self.config.max_connections and not self._close_idle():
            return self.refusal
        self._open.add(connection)
        if connection.address is not None:
            self._addresses[connection.address] += 1
        return None

    def leave(self, connection: Connection) -> None:
        """Count one connection fewer."""
        self._open.discard(connection)
        if connection.address is not None:
            self._addresses[connection.address] -= 1
            if not self._addresses[connection.address]:
                del self._addresses[connection.address]
            connection.address = None

    def _close_idle(self) -> bool:
        """Close the connection that has been idle for the longest time; return False if each has a request."""
        latest = asyncio.get_running_loop().time() - EVICTABLE_AFTER_S
        idle = [(since, c) for c in self._open if (since := c.idle_since) is not None and since <= latest]
        if not idle:
            return False
        _, oldest = min(idle, key=itemgetter(0))
        self.leave(oldest)
        oldest.force_close()
        return True

    def __call__(self) -> Connection:
        """Return the protocol of a new connection (asyncio)."""
        config = self.config
        return Connection(
            self,
            self._server,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=config.keepalive_timeout,
            max_line_size=config.max_header,
            max_field_size=config.max_header,
            max_headers=MAX_HEADERS,
            lingering_time=LINGERING_TIME_S,
            read_bufsize=READ_BUFFER_BYTES,
            auto_decompress=False,
        )


def _refusal_of(text: str) -> bytes:
    return raw_error_response(TooManyConnections(text), request_context.new_request_id())


def _size_of(message: Any) -> int:
    """Return the bytes of a request's line and headers; 0 for data that is not a request."""
    headers = getattr(message, "raw_headers", ())
    return len(getattr(message, "path", "")) + sum(len(name) + len(value) + 4 for name, value in headers)
