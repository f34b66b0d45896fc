"""Middleware that separates the addresses of consumers and operators."""

from __future__ import annotations

from aiohttp import web

from handler_host.http.client_address import is_admin_connection
from handler_host.http.routing import Endpoint
from handler_host.plugin.errors import NotFound


class ListenerFilter:
    """Filter for hosts with ``admin.listen``: routes are served only there (``admin``), or only elsewhere."""

    def __init__(self, *, admin: bool) -> None:
        self._admin = admin

    async def handle(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Run the endpoint; raises ``NotFound`` for a request to the other address."""
        if is_admin_connection(request) != self._admin:
            raise NotFound(f"there is nothing at {request.path} on this address")
        return await endpoint(request)
