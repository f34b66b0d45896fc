"""Endpoints and the middleware in front of them."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from aiohttp import web

from handler_host.http.errors import handle_expect_header

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Middleware(Protocol):
    """Step of a request on the way to its endpoint, and of the response on the way back."""

    async def handle(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Return the response of ``endpoint``; raises a ``HostError`` to refuse the request."""


def with_middleware(routes: Iterable[web.RouteDef], middleware: Iterable[Middleware | None] = ()) -> list[web.RouteDef]:
    """Return the routes with middleware in front of each endpoint, which sees requests in this order.

    None stands for middleware that the configuration does not ask for.
    """
    steps = [step for step in middleware if step is not None][::-1]
    guarded = []
    for route in routes:
        endpoint = route.handler
        for step in steps:
            # A partial of the bound method: no frame of its own per step, and aiohttp sees a coroutine function.
            endpoint = functools.partial(step.handle, endpoint=endpoint)
        guarded.append(
            web.route(route.method, route.path, endpoint, expect_handler=handle_expect_header, **route.kwargs)
        )
    return guarded
