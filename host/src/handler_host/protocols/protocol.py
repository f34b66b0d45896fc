"""Declaration of a protocol: everything that the composition root needs to serve its clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from aiohttp import web
from multidict import istr

from handler_host.http.body import BodyReader
from handler_host.http.request_context import ErrorBody
from handler_host.http.routing import Endpoint, Middleware, with_middleware
from handler_host.protocols.chat_service import ChatService


class Protocol(msgspec.Struct, frozen=True, kw_only=True):
    """API that existing clients speak, as data."""

    name: str
    routes: Callable[[ChatService, BodyReader], list[web.RouteDef]]
    """Returns the routes, without middleware."""
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


def protocol_routes(
    protocols: Iterable[Protocol],
    chats: ChatService,
    bodies: BodyReader,
    middleware: Callable[[Protocol], Iterable[Middleware | None]],
) -> list[web.RouteDef]:
    """Return the routes of all protocols, with their middleware.

    If two protocols have a route in common (``GET /v1/models``), the later one gets the requests with its marker.
    Raises ``ValueError`` if it has no marker.
    """
    table: dict[tuple[str, str], web.RouteDef] = {}
    for protocol in protocols:
        for route in with_middleware(protocol.routes(chats, bodies), middleware(protocol)):
            shared = table.get((route.method, route.path))
            if shared is not None:
                route = with_model_negotiation(route, protocol, shared)
            table[route.method, route.path] = route
    return list(table.values())


def with_model_negotiation(route: web.RouteDef, protocol: Protocol, default: web.RouteDef) -> web.RouteDef:
    """Return one route for two protocols: ``route`` for requests with the marker of its protocol, else ``default``."""
    marker = protocol.marker_header
    if marker is None:
        raise ValueError(f"{protocol.name}: {route.method} {route.path} is taken; declare a marker_header")
    own: Endpoint = route.handler
    other: Endpoint = default.handler

    async def negotiate(request: web.Request) -> web.StreamResponse:
        return await (own if marker in request.headers else other)(request)

    return web.route(route.method, route.path, negotiate, **route.kwargs)
