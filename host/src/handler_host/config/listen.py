"""Listening addresses as ``admin.listen`` writes them: ``HOST:PORT`` or ``unix:PATH``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

UNIX = "unix:"
MAX_PATH_BYTES = 107
"""Longest path of a Unix socket in bytes (``sun_path`` of Linux without its NUL)."""


class Address(NamedTuple):
    """A host and a port to listen on, or the path of a Unix socket."""

    host: str
    port: int
    path: Path | None = None


def parse_listen(text: str) -> Address:
    """Return the address; raises ``ValueError`` with a text that begins with "must be"."""
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX).removeprefix("//")
        if not path or len(path.encode()) > MAX_PATH_BYTES:
            raise ValueError(f"must be unix:PATH, with a path of 1 to {MAX_PATH_BYTES} bytes")
        return Address("", 0, Path(path).expanduser().absolute())
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError('must be HOST:PORT ("127.0.0.1:9090"), or unix:PATH')
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError('must have brackets around an IPv6 address ("[::1]:9090")')
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def is_loopback(host: str) -> bool:
    """Return whether a host name (without port) is this machine's loopback interface, whatever a resolver says."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost") or name in ("::1", "[::1]"):
        return True
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)
