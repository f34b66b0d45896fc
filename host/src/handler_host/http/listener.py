"""Connections of clients: their limit, and the responses to data that is not an HTTP request."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import http_exceptions, web

from handler_host.config import ServerConfig
from handler_host.http import request_context
from handler_host.http.errors import error_response, to_host_error
from handler_host.plugin.errors import BadRequest, HeadersTooLarge, HostError, TooManyConnections

CONNECTIONS_PER_REQUEST = 2
"""Connections for each request that may be in flight: clients keep some open for their next request."""
MAX_HEADERS = 128
LINGERING_TIME_S = 2.0
"""Time in which a client may still send data that is not read any more, before the connection is closed."""


class Connection(web.RequestHandler):
    """One connection; unlike aiohttp's it counts itself, and sends errors in the host's format."""

    __slots__ = ("_listener", "_refused", "admin")

    def __init__(self, listener: Listener, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._listener = listener
        self._refused = False
        self.admin = listener.admin
        """Whether it has come to ``admin.listen``."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or refuse it at the limit (asyncio)."""
        assert isinstance(transport, asyncio.Transport)
        self._refused = not self._listener.admit()
        if self._refused:
            self.close()  # stop reading
            transport.write(self._listener.refusal)
            transport.close()
        else:
            super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count the end (asyncio)."""
        if not self._refused:
            self._listener.leave()
            super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to data that cannot be read as a request (aiohttp)."""
        context = request_context.RequestContext(request_context.new_request_id())
        error: HostError
        if isinstance(exc, http_exceptions.LineTooLong):
            limit = self._listener.config.max_header
            error = HeadersTooLarge(f"the request line or a header is longer than {limit} bytes (server.max_header)")
        elif isinstance(exc, http_exceptions.BadHttpMessage) and exc.message.startswith("Too many headers"):
            error = HeadersTooLarge(f"the request has more than {MAX_HEADERS} headers")
        elif status == 400:
            error = BadRequest("not a valid HTTP request")
        else:
            error = to_host_error(exc if isinstance(exc, Exception) else RuntimeError(message), context.request_id)
        response = error_response(error, context.request_id)
        context.write_headers(response.headers)
        response.force_close()
        return response


class Listener:
    """Factory of the connections of one server, for ``loop.create_server``."""

    def __init__(self, server: web.Server, config: ServerConfig, *, admin: bool = False) -> None:
        self.config = config
        self.admin = admin
        self._server = server
        self._open = 0
        limit = config.max_connections
        error = TooManyConnections(
            f"the host has {CONNECTIONS_PER_REQUEST * limit} connections open (server.max_connections)"
        )
        body = error_response(error, "-").body
        assert isinstance(body, bytes)
        self.refusal = (
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        """Whole response to a connection over the limit."""

    def admit(self) -> bool:
        """Count one more connection; return False at the limit."""
        if self._open >= CONNECTIONS_PER_REQUEST * self.config.max_connections:
            return False
        self._open += 1
        return True

    def leave(self) -> None:
        """Count one connection fewer."""
        self._open -= 1

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
        )
