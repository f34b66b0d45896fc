"""Address of a client, and which names are those of this machine."""

from __future__ import annotations

import functools
import socket
import struct
from collections.abc import Iterable

from aiohttp import web

from handler_host.config.listen import is_loopback
from handler_host.plugin.errors import ConfigError

_CREDENTIALS = "3i"
"""Process, user and group of the other end of a Unix socket (``struct ucred``)."""


class TrustedProxies:
    """Proxies whose ``X-Forwarded-For`` is believed; ``networks`` are addresses or networks (``10.0.0.0/8``)."""

    def __init__(self, networks: Iterable[str]) -> None:
        import ipaddress  # only behind a proxy

        try:
            self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]
        except ValueError as error:
            raise ConfigError(f"server.trusted_proxies: {error}; write an address or a network, 10.0.0.0/8") from None
        self._parse = ipaddress.ip_address

    def client_of(self, remote: str, forwarded: list[str]) -> str:
        """Return the last address that is not a trusted proxy, from the connection outwards."""
        hops = [hop.strip() for value in forwarded for hop in value.split(",")]
        client = remote
        while self._is_trusted(client) and hops:
            hop = hops.pop()
            try:
                client = str(self._parse(hop))
            except ValueError:
                break  # what a client has written itself
        return client

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = self._parse(address)
        except ValueError:
            return False  # a connection without an address
        return any(parsed in network for network in self._networks if network.version == parsed.version)


TRUSTED_PROXIES = web.AppKey("TRUSTED_PROXIES", TrustedProxies)


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
    remote = request.remote or "unknown"
    proxies = request.config_dict.get(TRUSTED_PROXIES)
    return remote if proxies is None else proxies.client_of(remote, request.headers.getall("X-Forwarded-For", []))


def is_admin_connection(request: web.Request) -> bool:
    """Return whether the request has come to ``admin.listen``."""
    return getattr(request.protocol, "admin", False) is True


@functools.lru_cache(maxsize=256)
def is_loopback_address(address: str) -> bool:
    """Return whether an address, ``HOST`` or ``HOST:PORT`` as in the ``Host`` header, is loopback."""
    name, colon, port = address.rpartition(":")
    return is_loopback(name if colon and port.isdigit() else address)
