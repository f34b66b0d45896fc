"""Middleware that names the protocol of a route, and gives its errors the format of the protocol."""

from __future__ import annotations

from aiohttp import web
from multidict import istr

from handler_host.http import request_context
from handler_host.http.request_context import ErrorBody
from handler_host.http.routing import Endpoint


class ErrorFormat:
    """Name and error format of a protocol; it stands in front of everything that may refuse a request.

    ``request_id_header`` is the protocol's header for the request ID, beside ``X-Request-ID``.
    """

    def __init__(
        self, protocol: str, error_body: ErrorBody | None = None, request_id_header: istr | None = None
    ) -> None:
        self._protocol = protocol
        self._error_body = error_body
        self._request_id_header = request_id_header

    async def handle(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Run the endpoint; errors of it, and of the middleware behind this one, get the format."""
        context = request_context.current.get()
        context.protocol = self._protocol
        context.error_body = self._error_body
        context.request_id_header = self._request_id_header
        return await endpoint(request)
