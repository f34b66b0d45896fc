"""Documentation routes: ``/openapi.json``, and ``/docs``, a page that shows it.

The page is one file of this project that loads nothing from elsewhere: it works without a network, and what a user
enters goes to the host only.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from handler_host.dispatch.directory import HandlerDirectory
from handler_host.http import request_context
from handler_host.http.responses import json_response
from handler_host.lifecycle.supervisor import Supervisor

PAGE = Path(__file__).with_name("api_docs.html")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ApiDocsRoutes:
    """Routes of the OpenAPI document and its viewer."""

    def __init__(self, supervisor: Supervisor, directory: HandlerDirectory) -> None:
        self._supervisor = supervisor
        self._directory = directory

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for consumers."""
        return [web.get("/openapi.json", self.openapi)]

    def public_routes(self) -> list[web.RouteDef]:
        """Return the routes that need no key: a browser sends none, and the page asks for it."""
        return [web.get("/docs", self.page)]

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        """Return the operations of the handlers that the key may use, as an OpenAPI document."""
        from handler_host.routes.openapi import document  # few clients need it

        statuses = self._directory.statuses(request_context.current.get().consumer)
        return json_response(document(statuses, keys=not self._supervisor.config.auth.open))

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Return the page."""
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return web.FileResponse(PAGE, headers=headers)
