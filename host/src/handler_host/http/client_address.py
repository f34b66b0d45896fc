"""Where a request comes from."""

from __future__ import annotations

import socket
import struct

from aiohttp import web

_CREDENTIALS = "3i"
"""Process, user and group of the other end of a Unix socket (``struct ucred``)."""


def address_of(request: web.Request) -> str:
    """Return the address of the client, or for a Unix socket the user of the other end."""
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is not None and connection.family == socket.AF_UNIX:
        try:
            size = struct.calcsize(_CREDENTIALS)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        except OSError:
            return "unix socket"
        return f"uid {struct.unpack(_CREDENTIALS, credentials)[1]}"
    return request.remote or "unknown"


def is_admin_connection(request: web.Request) -> bool:
    """Tell whether the request has come to the operators' own address."""
    return getattr(request.protocol, "admin", False) is True
