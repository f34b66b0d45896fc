"""Listeners beside ``server.host``: addresses of ``server.listen`` and ``admin.listen``, TCP or a Unix socket."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from handler_host.config.listen import parse_listen
from handler_host.http.listen_address import tls_options, url_of, why_not_listening
from handler_host.http.listener import Listener
from handler_host.plugin.errors import ConfigError

log = logging.getLogger(__name__)

OWNER_ONLY = 0o177
"""Mask that leaves read and write to the owner of a new socket."""
OWNER_AND_GROUP = 0o117
"""Mask that leaves them to the owner and its group, such as for a proxy."""


@asynccontextmanager
async def further_listener(listen: str, listener: Listener, context: ssl.SSLContext | None) -> AsyncIterator[None]:
    """Listen while the block runs; raises :class:`ConfigError` if the address is not available."""
    key = "admin.listen" if listener.admin else "server.listen"
    address = parse_listen(listen)
    loop = asyncio.get_running_loop()
    try:
        if address.path is not None:
            server = await loop.create_unix_server(
                listener, sock=_bind(address.path, OWNER_ONLY if listener.admin else OWNER_AND_GROUP)
            )
            shown = f"unix:{address.path}"
        else:
            server = await loop.create_server(
                listener,
                address.host,
                address.port,
                reuse_address=True,
                **tls_options(context),
            )
            shown = url_of(*server.sockets[0].getsockname()[:2], is_tls=context is not None)
    except OSError as error:
        raise ConfigError(
            f"{key}: cannot listen on {listen}: {why_not_listening(error)}; choose another address"
        ) from error
    text = "admin routes are served only at %s" if listener.admin else "also listening at %s"
    log.info(text, shown, extra={"fields": {"address": shown}})
    try:
        yield
    finally:
        server.close()
        if address.path is not None:
            address.path.unlink(missing_ok=True)


def _bind(path: Path, mask: int) -> socket.socket:
    """Return a socket bound to this path, in place of one that a former host has left."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            path.unlink()
        usual_mask = os.umask(mask)
        try:
            bound.bind(str(path))
        finally:
            os.umask(usual_mask)
    except BaseException:
        bound.close()
        raise
    return bound


def _is_stale(path: Path) -> bool:
    """Return whether there is a socket at which no process listens."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False
