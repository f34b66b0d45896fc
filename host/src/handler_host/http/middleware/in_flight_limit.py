"""Middleware that limits the requests in flight."""

from __future__ import annotations

from aiohttp import web

from handler_host.http.routing import Endpoint
from handler_host.plugin.errors import TooManyConnections


class InFlightLimit:
    """Limit of ``server.max_connections`` requests in flight, of all routes that it guards together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0

    async def handle(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Run the endpoint; raises ``TooManyConnections`` at the limit."""
        if self._in_flight >= self._limit:
            raise TooManyConnections(
                f"the host has {self._limit} requests in flight (server.max_connections); try again", retry_after=1.0
            )
        self._in_flight += 1
        try:
            return await endpoint(request)
        finally:
            self._in_flight -= 1
