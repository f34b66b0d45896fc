"""The routes that describe the host: ``/openapi.json``, and ``/docs``, a page that shows it.

The page is the project's own, one file without any other address: it works without a
network, and nothing of what is typed into it goes anywhere but to the host.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from handler_host.http.responses import json_response
from handler_host.lifecycle.supervisor import Supervisor

PAGE = Path(__file__).with_name("api_docs.html")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ApiDocsRoutes:
    """The routes of whoever writes a client."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def routes(self) -> list[web.RouteDef]:
        """Return those that consumers may see, for the composition root to guard and to add."""
        return [web.get("/openapi.json", self.openapi)]

    def open_routes(self) -> list[web.RouteDef]:
        """Return those that need no key: a browser has none, and the page asks for it."""
        return [web.get("/docs", self.page)]

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        """What is known of the operations now, as an OpenAPI document."""
        from handler_host.routes.openapi import document  # few ask for it

        keys = bool(self._supervisor.config.auth.api_keys)
        return json_response(document(self._supervisor.statuses(), keys=keys))

    async def page(self, request: web.Request) -> web.StreamResponse:
        """The page."""
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return web.FileResponse(PAGE, headers=headers)
