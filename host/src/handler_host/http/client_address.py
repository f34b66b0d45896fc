"""Address of a client, and which names are those of this machine."""

from __future__ import annotations

import functools
import socket
import struct

from aiohttp import web

from handler_host.config.listen import is_loopback

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
    """Return whether the request has come to ``admin.listen``."""
    return getattr(request.protocol, "admin", False) is True


@functools.lru_cache(maxsize=256)
def is_loopback_address(address: str) -> bool:
    """Return whether an address, ``HOST`` or ``HOST:PORT`` as in the ``Host`` header, is loopback."""
    name, colon, port = address.rpartition(":")
    return is_loopback(name if colon and port.isdigit() else address)
