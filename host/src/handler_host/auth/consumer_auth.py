"""Middleware of the consumers' routes: consumer keys, and who may use a host that has none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from handler_host.auth.consumers import Consumer
from handler_host.auth.failed_login_throttle import FailedLoginThrottle
from handler_host.auth.key_revocation import LiveRequests
from handler_host.auth.key_ring import KeyRing, KeySource
from handler_host.http import request_context
from handler_host.http.client_address import address_of, is_loopback_address
from handler_host.http.routing import Endpoint
from handler_host.plugin.errors import Forbidden, Unauthorized
from handler_host.telemetry.counters import Counters

if TYPE_CHECKING:
    from handler_host.auth.shared_limits import SharedLimits


class ConsumerAuth:
    """Authentication of consumers. The admin token opens none of their routes.

    A host without consumer keys is open for everybody on this machine, but not for web pages: a page whose name
    was made to point to 127.0.0.1 (DNS rebinding), or that posts across sites, must not spend the keys of the
    handlers. ``allows_origin`` returns whether pages of an origin are allowed. ``shared`` counts the limits of several
    hosts; None: this host counts its own.
    """

    def __init__(
        self,
        keys: KeyRing,
        key_source: KeySource,
        counters: Counters,
        allows_origin: Callable[[str], bool],
        throttle: FailedLoginThrottle,
        shared: SharedLimits | None = None,
        live: LiveRequests | None = None,
    ) -> None:
        self._keys = keys
        self._key_source = key_source
        self._counters = counters
        self._allows_origin = allows_origin
        self._throttle = throttle
        self._shared = shared
        self._live = live or LiveRequests(keys.consumers.refresh_if_due)

    def with_key_parameter(self, parameter: str | None) -> ConsumerAuth:
        """Return the same middleware for routes whose query may have the key in ``parameter``."""
        source = KeySource(self._key_source.headers, parameter)
        return ConsumerAuth(
            self._keys, source, self._counters, self._allows_origin, self._throttle, self._shared, self._live
        )

    async def handle(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Run the endpoint for a consumer; raises ``Unauthorized``, ``Forbidden`` and ``RateLimited``."""
        if self._keys.is_open:
            self._require_loopback_host(request)
            return await endpoint(request)
        consumer = await self._authenticate(request)
        consumers = self._keys.consumers
        if not consumers.may_end:
            return await endpoint(request)
        with self._live.track(functools.partial(consumers.is_active, consumer)):
            return await endpoint(request)

    async def _authenticate(self, request: web.Request) -> Consumer:
        key = self._key_source.read(request)
        if key is None:
            raise Unauthorized("this route needs an API key; send it as 'Authorization: Bearer KEY'")
        consumers = self._keys.consumers
        if consumers.may_have_changed:
            await consumers.refresh()
        consumer = consumers.find(key)
        if consumer is None:
            if self._keys.is_admin(key):
                raise Forbidden("the admin token cannot call handlers; use a consumer API key")
            self._counters.wrong_keys["consumer"] += 1
            await self._throttle.delay_failure(address_of(request))
            raise Unauthorized("the API key is unknown; use one that the operator of this host has issued")
        request_context.current.get().consumer = consumer  # the log names it if it is refused, too
        inactive_reason = consumer.inactive_reason()
        if inactive_reason is not None:
            self._counters.refused[consumer.name, inactive_reason] += 1
            raise Unauthorized(f"API key {inactive_reason}")
        uses_tokens = request.method == hdrs.METH_POST
        if self._shared is None:
            refusal = consumer.check(uses_tokens=uses_tokens)
        else:
            refusal = await self._shared.check(consumer, uses_tokens=uses_tokens)
        if refusal is not None:
            self._counters.refused[consumer.name, refusal.reason] += 1
            raise refusal.error
        return consumer

    def _require_loopback_host(self, request: web.Request) -> None:
        host = request.headers.get(hdrs.HOST)
        if host is not None and not is_loopback_address(host):
            raise Forbidden(
                f"a host without API keys serves names of this machine only, not {host[:100]!r}; "
                "set HANDLER_HOST_API_KEYS"
            )
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or self._allows_origin(origin) or is_loopback_address(origin.partition("://")[2]):
            return
        raise Forbidden(
            f"a host without API keys does not serve the web page {origin[:100]!r}; set HANDLER_HOST_API_KEYS"
        )
