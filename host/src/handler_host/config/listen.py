"""An address to listen on, as ``admin.listen`` has it: ``HOST:PORT``, or ``unix:PATH``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

UNIX = "unix:"
LONGEST_PATH = 107
"""Bytes of a Unix socket's path (``sun_path`` of Linux, with its end)."""


class Address(NamedTuple):
    """Where to listen: a host and a port, or a path."""

    host: str
    port: int
    path: Path | None = None


def parse_listen(text: str) -> Address:
    """Return the address; raises ``ValueError``, whose text begins with "has to be"."""
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX).removeprefix("//")
        if not path or len(path.encode()) > LONGEST_PATH:
            raise ValueError(f"has to be unix:PATH, with a path of 1 to {LONGEST_PATH} bytes")
        return Address("", 0, Path(path).expanduser().absolute())
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError('has to be HOST:PORT ("127.0.0.1:9090"), or unix:PATH')
    return Address(host.removeprefix("[").removesuffix("]"), int(port))
