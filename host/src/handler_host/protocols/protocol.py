"""Declaration of a protocol: everything that the composition root needs to serve its clients.

A declaration is data. The code of a protocol, and the chat service, are imported with the first request: an idle host
does not carry protocols that nobody uses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from multidict import istr

from handler_host.http.body import BodyReader
from handler_host.http.request_context import ErrorBody
from handler_host.http.routing import Endpoint, Middleware, with_middleware

if TYPE_CHECKING:
    from handler_host.protocols.chat_service import ChatService


class ClientProtocol(msgspec.Struct, frozen=True, kw_only=True):
    """API that existing clients speak, as data."""

    name: str
    paths: tuple[tuple[str, str], ...]
    """Method and path of each route; the first one that fits a request gets it."""
    module: str
    """Module with ``routes(chats, bodies)``, the routes of these paths; imported with the first request."""
    error_body: ErrorBody | None = None
    """JSON of an error; None: that of OpenAI's clients, as on most routes."""
    request_id_header: istr | None = None
    """Header in which the clients look for the request ID, beside ``X-Request-ID``."""
    key_headers: tuple[str, ...] = ()
    """Headers in which the clients send the API key, beside ``Authorization``; accepted on all routes."""
    key_parameter: str | None = None
    """Query parameter in which the clients send the API key; accepted on the routes of this protocol."""
    marker_header: str | None = None
    """Header that all clients of this protocol send, and no others: it decides where two protocols share a route."""


class ProtocolEndpoints:
    """Endpoints of one protocol, whose code is imported with the first request."""

    def __init__(self, protocol: ClientProtocol, chats: Callable[[], ChatService], bodies: BodyReader) -> None:
        self._protocol = protocol
        self._chats = chats
        self._bodies = bodies

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, without middleware."""
        return [
            web.route(method, path, functools.partial(self._respond, route=(method, path)))
            for method, path in self._protocol.paths
        ]

    async def _respond(self, request: web.Request, *, route: tuple[str, str]) -> web.StreamResponse:
        return await self._endpoints[route](request)

    @functools.cached_property
    def _endpoints(self) -> dict[tuple[str, str], Endpoint]:
        routes: list[web.RouteDef] = import_module(self._protocol.module).routes(self._chats(), self._bodies)
        return {(route.method, route.path): route.handler for route in routes}


def protocol_routes(
    protocols: Iterable[ClientProtocol],
    chats: Callable[[], ChatService],
    bodies: BodyReader,
    middleware: Callable[[ClientProtocol], Iterable[Middleware | None]],
) -> list[web.RouteDef]:
    """Return the routes of all protocols, with their middleware.

    If two protocols have a route in common (``GET /v1/models``), the later one gets the requests with its marker.
    Raises ``ValueError`` if it has no marker.
    """
    table: dict[tuple[str, str], web.RouteDef] = {}
    for protocol in protocols:
        endpoints = ProtocolEndpoints(protocol, chats, bodies)
        for route in with_middleware(endpoints.routes(), middleware(protocol)):
            shared = table.get((route.method, route.path))
            if shared is not None:
                route = choose_by_marker(route, protocol, shared)
            table[route.method, route.path] = route
    return list(table.values())


def choose_by_marker(route: web.RouteDef, protocol: ClientProtocol, default: web.RouteDef) -> web.RouteDef:
    """Return one route for two protocols: ``route`` for requests with the marker of its protocol, else ``default``."""
    marker = protocol.marker_header
    if marker is None:
        raise ValueError(f"{protocol.name}: {route.method} {route.path} is taken; declare a marker_header")
    own: Endpoint = route.handler
    other: Endpoint = default.handler

    async def choose(request: web.Request) -> web.StreamResponse:
        return await (own if marker in request.headers else other)(request)

    return web.route(route.method, route.path, choose, **route.kwargs)
