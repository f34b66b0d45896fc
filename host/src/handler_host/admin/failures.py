"""Admin routes of the last failed requests: what is known of each."""

from __future__ import annotations

from aiohttp import web

from handler_host.http.responses import json_response
from handler_host.plugin.errors import InvalidInput, NotFound
from handler_host.telemetry.failures import RING, FailureRing

DEFAULT_LIMIT = 20


class FailureRoutes:
    """The admin routes of failures."""

    def __init__(self, failures: FailureRing) -> None:
        self._failures = failures

    def routes(self) -> list[web.RouteDef]:
        """Return the routes; the composition root adds authentication."""
        return [
            web.get("/admin/failures", self.list_failures),
            web.get("/admin/failures/{request_id}", self.show_failure),
        ]

    async def list_failures(self, request: web.Request) -> web.StreamResponse:
        """Return the last failures, newest first: at most ``limit``, only those of ``handler`` if it is given."""
        limit = request.query.get("limit", str(DEFAULT_LIMIT))
        if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= 2 * RING):
            raise InvalidInput(f"limit = {limit[:20]!r}: must be a number from 1 to {2 * RING}", param="limit")
        return json_response({"failures": self._failures.last(int(limit), request.query.get("handler"))})

    async def show_failure(self, request: web.Request) -> web.StreamResponse:
        """Return the failures with one request ID, newest first; 404 if there are none."""
        request_id = request.match_info["request_id"]
        failures = self._failures.find(request_id)
        if not failures:
            raise NotFound(
                f"no failed request {request_id[:100]!r}; the host keeps the last {RING} failures and {RING} refusals "
                f"since its start ({len(self._failures)} now), and no successful requests"
            )
        return json_response({"failures": failures})
