"""Addresses that the host listens on: their text for operators, and asyncio's options for them."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any

HANDSHAKE_TIMEOUT_S = 10.0
"""Time for the TLS handshake of a connection."""

_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to tell them apart; nothing is bound here


def url_of(host: str, port: int, *, is_tls: bool = False) -> str:
    """Return the URL of an address on this machine; an IPv6 address stands in brackets."""
    host = _LOOPBACK_OF.get(host, host)
    scheme = "https" if is_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def why_not_listening(error: OSError) -> str:
    """Return the system's reason why an address is not available."""
    # asyncio's own text repeats the address; a name that does not resolve has error numbers of its own.
    return str(error.strerror) if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)


def tls_options(context: ssl.SSLContext | None) -> dict[str, Any]:
    """Return the options of asyncio for a server with this context, or for one without TLS."""
    return {} if context is None else {"ssl": context, "ssl_handshake_timeout": HANDSHAKE_TIMEOUT_S}
