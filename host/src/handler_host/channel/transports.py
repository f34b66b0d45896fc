"""Connect the host's end of a channel: to a Unix socket, or to an open TCP or TLS transport."""

from __future__ import annotations

import asyncio
import socket

Connection = socket.socket | asyncio.Transport
"""A Unix socket, or an open transport that is paused."""


async def attach(connection: Connection, protocol: asyncio.Protocol) -> None:
    """Give the connection to ``protocol``, which owns it from now on."""
    if isinstance(connection, socket.socket):
        await asyncio.get_running_loop().create_unix_connection(lambda: protocol, sock=connection)
        return
    connection.set_protocol(protocol)
    protocol.connection_made(connection)
    if connection.is_closing():
        protocol.connection_lost(None)
    else:
        connection.resume_reading()
