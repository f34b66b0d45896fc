"""The address to which workers on other machines connect, each with a token that is used once."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import ssl
from typing import cast

from handler_host.config.listen import Address
from handler_host.plugin.errors import ConfigError
from handler_host.workers.remote.connection import TOKEN_BYTES

log = logging.getLogger(__name__)

TOKEN_TIMEOUT = 5.0
"""Seconds from a connection's start, or from the end of its TLS handshake, to the last byte of its token."""

MAX_STRANGERS = 256
"""Connections without a token at a time; more are closed at once."""


class _Gate(asyncio.Protocol):
    """A new connection, until it has sent a valid token."""

    def __init__(self, listener: WorkerListener) -> None:
        self._listener = listener
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the token (asyncio)."""
        # The transport of another event loop (uvloop) does not inherit from asyncio's class.
        self._transport = cast(asyncio.Transport, transport)
        if len(self._listener.strangers) >= MAX_STRANGERS:
            self._transport.abort()
            return
        self._listener.strangers.add(self)
        self._timer = asyncio.get_running_loop().call_later(TOKEN_TIMEOUT, self.abort)

    def data_received(self, data: bytes) -> None:
        """Compare the token (asyncio)."""
        self._received += data
        if len(self._received) < TOKEN_BYTES or self._transport is None:
            return
        # A worker sends nothing beyond its token before it has the host's first frame.
        waiting = self._listener.redeem(self._received) if len(self._received) == TOKEN_BYTES else None
        if waiting is None:
            log.warning("a connection with an invalid token was closed", extra={"fields": {"peer": self._peer()}})
            self.abort()
            return
        self._forget()
        self._transport.pause_reading()
        waiting.set_result(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection (asyncio)."""
        self._forget()

    def abort(self) -> None:
        """Close the connection."""
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    def _forget(self) -> None:
        self._listener.strangers.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def _peer(self) -> str:
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peer[0]) if peer else "unknown"


def withdraw(connection: asyncio.Future[asyncio.Transport]) -> None:
    """Withdraw the token of a connection, and close the connection if it has arrived: no channel owns it yet."""
    if not connection.cancel() and not connection.cancelled():
        connection.result().abort()


class WorkerListener:
    """Accepts the connections of workers on ``address``; with ``tls`` in TLS 1.2 or newer."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None) -> None:
        self.strangers: set[_Gate] = set()
        """Connections that have not sent a valid token yet."""
        self.port = address.port
        self._address = address
        self._tls = tls
        self._tokens: dict[bytes, asyncio.Future[asyncio.Transport]] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; raises ``ConfigError`` if the address cannot be used."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Gate(self),
                self._address.host,
                self._address.port,
                ssl=self._tls,
                ssl_handshake_timeout=TOKEN_TIMEOUT if self._tls is not None else None,
            )
        except OSError as error:
            raise ConfigError(
                f"no listener for workers on {self._address.host}:{self._address.port}: {error.strerror}; "
                "correct the setting 'listen' of the launcher"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    def expect(self) -> tuple[bytes, asyncio.Future[asyncio.Transport]]:
        """Return a new token, and the future of the connection that sends it; it ends with :func:`withdraw`."""
        token = secrets.token_bytes(TOKEN_BYTES)
        connection: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        self._tokens[token] = connection
        connection.add_done_callback(lambda _: self._tokens.pop(token, None))
        return token, connection

    def redeem(self, token: bytes) -> asyncio.Future[asyncio.Transport] | None:
        """Return the future of the connection with this token, and use the token up; None for an unknown one."""
        match: bytes | None = None
        for known in self._tokens:
            # All are compared, each in constant time: the duration reveals nothing.
            # A withdrawn one stays here until the loop's next turn.
            if hmac.compare_digest(known, token) and not self._tokens[known].done():
                match = known
        return self._tokens.pop(match) if match is not None else None

    async def close(self) -> None:
        """Stop listening; the connections of workers stay open."""
        if self._server is not None:
            self._server.close()
        for gate in list(self.strangers):
            gate.abort()
