"""Middleware for web pages of other origins (``server.cors_origins``): consumers' routes only, no admin routes."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import hdrs, web

from handler_host.http import request_context
from handler_host.http.routing import Endpoint
from handler_host.plugin.errors import Forbidden, NotFound

METHODS = "GET, POST"
EXPOSED_HEADERS = "X-Request-ID, X-Handler, Server-Timing, Retry-After"
"""Headers that a page may read."""
MAX_AGE_S = "600"
"""Seconds for which a browser remembers a preflight."""
ANY_ORIGIN = "*"


class CorsMiddleware:
    """Cross-origin access for the pages of ``origins``."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origin.rstrip("/") for origin in origins)

    def allows(self, origin: str) -> bool:
        """Return whether the origin is allowed."""
        return origin in self._origins or ANY_ORIGIN in self._origins

    async def handle(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Run the endpoint; a page of an allowed origin may read the response."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and self.allows(origin):
            request_context.current.get().origin = origin
        return await endpoint(request)

    async def write_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Write the headers of a response, which may be an error or a stream (aiohttp, before the head is sent)."""
        context = request_context.current.get(None)
        if context is None or context.origin is None:
            return
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = context.origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)

    async def preflight(self, request: web.Request) -> web.StreamResponse:
        """Answer the preflight of a browser."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            raise NotFound(f"there is nothing at {request.path} for OPTIONS")
        if not self.allows(origin):
            raise Forbidden(f"pages of {origin[:100]!r} may not use this host (server.cors_origins)")
        request_context.current.get().origin = origin
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, ""),
            hdrs.ACCESS_CONTROL_MAX_AGE: MAX_AGE_S,
        }
        return web.Response(status=204, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        """Return the preflight routes."""
        return [web.options(f"/{version}/{{tail:.*}}", self.preflight) for version in ("v1", "v1beta")]
