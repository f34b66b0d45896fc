"""Sockets that systemd has opened for the host (socket activation), in place of ``server.host``."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from handler_host.config import Config
from handler_host.http.listen_address import tls_options, url_of
from handler_host.http.listener import Listener
from handler_host.plugin.errors import ConfigError

FIRST_DESCRIPTOR = 3
"""Descriptor of the first socket (sd_listen_fds(3))."""


def take_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets for this process, and remove systemd's variables; raises :class:`ConfigError`."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return [_socket_of(descriptor) for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))]


def _socket_of(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        inherited = socket.socket(fileno=descriptor)
        is_listening = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"LISTEN_FDS: descriptor {descriptor} is not a socket ({error.strerror})") from error
    if not is_listening:
        raise ConfigError(
            f"LISTEN_FDS: descriptor {descriptor} is not a listening socket; in its .socket unit use ListenStream, "
            "and Accept=no"
        )
    return inherited


def with_addresses_of(config: Config, sockets: Sequence[socket.socket]) -> Config:
    """Return the configuration with the addresses of the sockets, to judge them as configured ones."""
    if not sockets:
        return config
    addresses = [_address_of(opened) for opened in sockets]
    server = msgspec.structs.replace(config.server, host="127.0.0.1", listen=(*addresses, *config.server.listen))
    return msgspec.structs.replace(config, server=server)


@asynccontextmanager
async def serving_sockets(
    sockets: Sequence[socket.socket], listener: Listener, context: ssl.SSLContext | None
) -> AsyncIterator[str]:
    """Serve the sockets while the block runs; yield the URL of the first one."""
    loop = asyncio.get_running_loop()
    servers = []
    for opened in sockets:
        if opened.family == socket.AF_UNIX:
            servers.append(await loop.create_unix_server(listener, sock=opened))
        else:
            servers.append(await loop.create_server(listener, sock=opened, **tls_options(context)))
    address = _address_of(sockets[0])
    is_unix = sockets[0].family == socket.AF_UNIX
    try:
        yield address if is_unix else url_of(*sockets[0].getsockname()[:2], is_tls=context is not None)
    finally:
        for server in servers:
            server.close()


def _address_of(opened: socket.socket) -> str:
    """Return the address as ``server.listen`` writes it."""
    if opened.family == socket.AF_UNIX:
        return f"unix:{opened.getsockname()}"
    host, port = opened.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
