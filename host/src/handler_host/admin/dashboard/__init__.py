"""The dashboard at ``/admin/``: static files, and the two routes that only the page needs.

The page uses the admin routes for everything else. Its chart is uPlot: 50 KB in one file, made
for time series, without dependencies or a build step. Chart.js is about four times as large,
ECharts twenty times, and an SVG chart of our own would need axes, cursor and resizing.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import hdrs, web

from handler_host._internal.versions import __version__
from handler_host.http.responses import JSON_HEADERS, json_response
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import InvalidInput, NotFound
from handler_host.routes.native import NativeRoutes

STATIC = Path(__file__).parent / "static"
TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
FILES = {
    "index.html": "index.html",
    "app.js": "app.js",
    "api.js": "api.js",
    "chart.js": "chart.js",
    "handlers.js": "handlers.js",
    "details.js": "details.js",
    "example.js": "example.js",
    "events.js": "events.js",
    "failures.js": "failures.js",
    "try.js": "try.js",
    "usage.js": "usage.js",
    "verify.js": "verify.js",
    "format.js": "format.js",
    "style.css": "style.css",
    "icon.svg": "icon.svg",
    "uplot.js": "uplot/uPlot.iife.min.js",
    "uplot.css": "uplot/uPlot.min.css",
}
"""The files of the page, by name; no other file is served."""
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Scripts and styles only from the page's files, requests only to the host, no framing."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The browser revalidates each file, so that an upgraded host never runs an old page.
    hdrs.CACHE_CONTROL: "no-cache",
}


SHOWN_FAILURES = 20
"""Failed requests in the box of the page."""


class DashboardRoutes:
    """The routes of the dashboard."""

    def __init__(self, supervisor: Supervisor, native: NativeRoutes) -> None:
        self._supervisor = supervisor
        self._native = native

    def public_routes(self) -> list[web.RouteDef]:
        """Return the routes of the files; they are public, because the page has the sign-in form and no secret."""
        return [
            web.get("/admin", self.redirect),
            web.get("/admin/", self.page),
            web.get("/admin/static/{file}", self.file),
        ]

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for operators only."""
        return [
            web.get("/admin/overview", self.overview),
            web.get("/admin/handlers/{name}/details", self.details),
            web.post("/admin/handlers/{name}/dispatch/{operation}", self._native.dispatch),
        ]

    async def redirect(self, request: web.Request) -> web.StreamResponse:
        """Redirect to the page; relative, because the application may be mounted below any path."""
        return web.Response(status=308, headers={hdrs.LOCATION: f"{request.path.rpartition('/')[2]}/"})

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Return the page."""
        return _file("index.html")

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Return one file of the page."""
        name = request.match_info["file"]
        if name not in FILES:
            raise NotFound(f"unknown file {name!r} of the dashboard")
        return _file(name)

    async def overview(self, request: web.Request) -> web.StreamResponse:
        """Return the data of the page in one response; the memory history only after the sample ``since``."""
        since = request.query.get("since", "0")
        if not (since.isascii() and since.isdecimal() and len(since) < 16):
            raise InvalidInput(f"since = {since!r}: must be the number of a sample", param="since")
        supervisor = self._supervisor
        await supervisor.refresh()
        content: dict[str, Any] = {
            "version": __version__,
            "run": supervisor.telemetry.events.run,
            "now": time.monotonic(),
            "draining": supervisor.draining,
            "handlers": supervisor.statuses(),
            "memory": supervisor.last_memory(),
            "verify": supervisor.verified,
            "failures": supervisor.telemetry.failures.last(SHOWN_FAILURES),
            "usage": supervisor.telemetry.usage.by_consumer(),
            "history": [msgspec.Raw(sample) for sample in supervisor.telemetry.history.since(int(since))],
        }
        return web.Response(body=msgspec.json.encode(content), headers=JSON_HEADERS)

    async def details(self, request: web.Request) -> web.StreamResponse:
        """Return the settings, past workers, latency, failures and log of one handler."""
        from handler_host.admin.handler_details import handler_details  # few operators open the page of a handler

        return json_response(handler_details(self._supervisor, request.match_info["name"], SHOWN_FAILURES))


def _file(name: str) -> web.FileResponse:
    path = STATIC / FILES[name]
    return web.FileResponse(path, headers={**HEADERS, hdrs.CONTENT_TYPE: TYPES[path.suffix[1:]]})
