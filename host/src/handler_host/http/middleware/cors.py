"""Web pages of other origins, where the configuration names them: the consumers' routes only, never the operators'."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import hdrs, web

from handler_host.auth.consumer_auth import Endpoint
from handler_host.http import request_context
from handler_host.plugin.errors import Forbidden, NotFound

METHODS = "GET, POST"
SHOWN = "X-Request-ID, X-Handler, Server-Timing, Retry-After"
"""Headers that a page may read."""
PREFLIGHT_AGE = "600"
"""Seconds for which a browser need not ask again."""
ALL = "*"


class Cors:
    """Lets the pages of some origins in."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origin.rstrip("/") for origin in origins)

    def allows(self, origin: str) -> bool:
        """Tell whether pages of this origin may ask."""
        return origin in self._origins or ALL in self._origins

    def crossed(self, endpoint: Endpoint) -> Endpoint:
        """Return ``endpoint``, with its answers readable for the pages that may ask."""
        if not self._origins:
            return endpoint

        async def run(request: web.Request) -> web.StreamResponse:
            origin = request.headers.get(hdrs.ORIGIN)
            if origin is not None and self.allows(origin):
                request_context.current.get().origin = origin
            return await endpoint(request)

        return run

    async def stamp(self, request: web.Request, response: web.StreamResponse) -> None:
        """Write the headers, errors and streams included (aiohttp, before the head is sent)."""
        current = request_context.current.get(None)
        if current is None or current.origin is None:
            return
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = current.origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = SHOWN
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)

    async def preflight(self, request: web.Request) -> web.StreamResponse:
        """Answer a browser that asks whether its page may ask."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            raise NotFound(f"there is nothing at {request.path} for OPTIONS")
        if not self.allows(origin):
            raise Forbidden(f"pages of {origin[:100]!r} may not ask this host (server.cors_origins)")
        request_context.current.get().origin = origin
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, ""),
            hdrs.ACCESS_CONTROL_MAX_AGE: PREFLIGHT_AGE,
        }
        return web.Response(status=204, headers=headers)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of preflights."""
        return [web.options(f"/{version}/{{tail:.*}}", self.preflight) for version in ("v1", "v1beta")]
