"""The operators' own address (``admin.listen``): a TCP address, or a Unix socket that only the host's user may open."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from handler_host.config.listen import parse_listen
from handler_host.http.listener import Listener
from handler_host.plugin.errors import ConfigError

log = logging.getLogger(__name__)

ONLY_FOR_ITS_USER = 0o177
"""The mask that leaves read and write to the owner of a new socket."""


@asynccontextmanager
async def listening_for_operators(listen: str, listener: Listener) -> AsyncIterator[None]:
    """Listen there while the block runs; raises :class:`ConfigError` if the address cannot be had."""
    address = parse_listen(listen)
    loop = asyncio.get_running_loop()
    try:
        if address.path is not None:
            server = await loop.create_unix_server(listener, sock=_bound(address.path))
            shown = f"unix:{address.path}"
        else:
            server = await loop.create_server(listener, address.host, address.port, reuse_address=True)
            host, port = server.sockets[0].getsockname()[:2]
            shown = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    except OSError as error:
        reason = str(error.strerror) if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise ConfigError(f"admin.listen: cannot listen on {listen}: {reason}; choose another address") from error
    log.info("the operators' routes are at %s only", shown, extra={"fields": {"address": shown}})
    try:
        yield
    finally:
        server.close()
        if address.path is not None:
            address.path.unlink(missing_ok=True)


def _bound(path: Path) -> socket.socket:
    """Return a socket at this path, in place of one that a host has left which is gone."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_left_over(path):
            path.unlink()
        mask = os.umask(ONLY_FOR_ITS_USER)
        try:
            bound.bind(str(path))
        finally:
            os.umask(mask)
    except BaseException:
        bound.close()
        raise
    return bound


def _is_left_over(path: Path) -> bool:
    """Tell whether there is a socket that nobody listens at."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False
