"""Who may ask: consumer keys for the handlers, the admin token for the operators.

Neither opens the other's routes. Keys are known as SHA-256 digests only; what a
client sends is compared with all of them in constant time.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from handler_host.auth.consumers import Consumers
from handler_host.auth.failed_login_throttle import Throttle
from handler_host.config import AuthConfig
from handler_host.http import request_context
from handler_host.http.client_address import address_of
from handler_host.plugin.errors import Forbidden, RateLimited, Unauthorized
from handler_host.telemetry.counters import Counters

KEY_HEADERS = ("x-api-key", "x-goog-api-key")
"""Where clients of other providers send a key, beside ``Authorization: Bearer``."""

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


class KeyRing:
    """The consumers with the digests of their keys, and the digest of the admin token."""

    def __init__(self, config: AuthConfig) -> None:
        self.consumers = Consumers(config)
        self._admin = bytes.fromhex(config.admin_token.removeprefix("sha256:")) if config.admin_token else None

    @property
    def open(self) -> bool:
        """Whether there are no consumer keys, so that everybody on this machine is a consumer."""
        return self.consumers.open

    def is_consumer(self, key: str) -> bool:
        """Tell whether ``key`` is one of the consumers'."""
        return self.consumers.find(key) is not None

    def is_admin(self, key: str) -> bool:
        """Tell whether ``key`` is the admin token."""
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
        return self._admin is not None and hmac.compare_digest(digest, self._admin)

    @property
    def has_admin(self) -> bool:
        """Whether there is an admin token at all."""
        return self._admin is not None


def presented_key(request: web.Request, parameter: str | None = None) -> str | None:
    """Return the key that came with a request, or None; ``parameter`` is where it may stand in the query."""
    headers = request.headers
    authorization = headers.get(hdrs.AUTHORIZATION)
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        return key.strip() or None if scheme.lower() == "bearer" else None
    for name in KEY_HEADERS:
        if name in headers:
            return headers[name]
    return request.query.get(parameter) if parameter is not None else None


class ConsumerAuth:
    """The gate of the consumers' routes.

    Without consumer keys it is open for everybody on this machine, but not for web
    pages: a page whose name was made to point to 127.0.0.1 (DNS rebinding), or
    that posts across sites, must not spend the keys of the handlers. ``allows``
    tells which origins of pages are let in.
    """

    def __init__(self, keys: KeyRing, counters: Counters, allows: Callable[[str], bool]) -> None:
        self._keys = keys
        self._counters = counters
        self._allows = allows
        self._throttle = Throttle()

    def only(self, endpoint: Endpoint, parameter: str | None = None) -> Endpoint:
        """Return ``endpoint`` for consumers only; ``parameter`` of the query may have the key, if it is given."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if self._keys.open:
                _require_loopback_host(request, self._allows)
            else:
                await self._admit(request, parameter)
            return await endpoint(request)

        return guarded

    async def _admit(self, request: web.Request, parameter: str | None) -> None:
        """Find out who asks; raises ``Unauthorized``, ``Forbidden`` and ``RateLimited``."""
        key = presented_key(request, parameter)
        if key is None:
            raise Unauthorized("this route needs an API key: send it as 'Authorization: Bearer KEY'")
        await self._keys.consumers.refresh()
        consumer = self._keys.consumers.find(key)
        if consumer is None:
            if self._keys.is_admin(key):
                raise Forbidden("the admin token is no API key: handlers are called with a key of their consumers")
            self._counters.wrong_keys["consumer"] += 1
            await self._throttle.failed(address_of(request))
            raise Unauthorized("the API key is not one of this host's: see HANDLER_HOST_API_KEYS")
        inactive_reason = consumer.inactive_reason()
        if inactive_reason is not None:
            self._counters.refused[consumer.name, inactive_reason] += 1
            raise Unauthorized(f"this API key was of use once, but is {inactive_reason}")
        try:
            consumer.request()
        except RateLimited:
            self._counters.refused[consumer.name, "rate"] += 1
            raise
        request_context.current.get().consumer = consumer


@functools.lru_cache(maxsize=256)
def _names_this_machine(address: str) -> bool:
    name, colon, port = address.rpartition(":")
    return is_loopback(name if colon and port.isdigit() else address)


def is_loopback(host: str) -> bool:
    """Tell whether a host name (without port) is this machine's loopback interface, whatever a resolver says."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost") or name in ("::1", "[::1]"):
        return True
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)


def _require_loopback_host(request: web.Request, allows: Callable[[str], bool]) -> None:
    host = request.headers.get(hdrs.HOST)
    if host is not None and not _names_this_machine(host):
        raise Forbidden(
            f"the host has no API keys, so it answers to names of this machine only, not to {host[:100]!r}: "
            "set HANDLER_HOST_API_KEYS"
        )
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and not allows(origin) and not _names_this_machine(origin.partition("://")[2]):
        raise Forbidden(
            f"the host has no API keys, so it does not answer the web page {origin[:100]!r}: set HANDLER_HOST_API_KEYS"
        )
