"""Audit log: changes by operators, and their results.

Each one is a log line (logger ``handler_host.audit``) and an event ``audit``.
"""

from __future__ import annotations

import logging
import time

from aiohttp import web

from handler_host.http import request_context
from handler_host.http.client_address import address_of
from handler_host.http.routing import Endpoint
from handler_host.plugin.errors import HostError
from handler_host.telemetry.events import EventHub

log = logging.getLogger("handler_host.audit")

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class AuditLog:
    """Middleware of the admin routes that writes the audit log."""

    def __init__(self, events: EventHub) -> None:
        self._events = events

    async def handle(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Run the endpoint; write an entry for each request that changes something."""
        if request.method in READ_METHODS:
            return await endpoint(request)
        started_at = time.monotonic()
        result, status = HostError.code, 500
        try:
            response = await endpoint(request)
            status = response.status
            result = "accepted" if status == 202 else "ok"
        except HostError as error:
            result, status = error.code, error.status
            raise
        finally:
            self.write(request, _action(request), result, status=status, seconds=time.monotonic() - started_at)
        return response

    def write(self, request: web.Request, action: str, result: str, **figures: object) -> None:
        """Write an entry."""
        context = request_context.current.get()
        fields: dict[str, object] = {
            "who": context.operator or "nobody",
            "from": address_of(request),
            "action": action,
            "handler": request.match_info.get("name"),
            "options": dict(request.query) or None,
            "result": result,
            "request_id": context.request_id,
            **figures,
        }
        present = {name: value for name, value in fields.items() if value is not None}
        log.info("audit", extra={"fields": present})
        self._events.publish("audit", present)


def _action(request: web.Request) -> str:
    """Return the last word of the route (``unload``), or ``dispatch`` with the operation."""
    operation = request.match_info.get("operation")
    if operation is not None:
        return f"dispatch {operation}"
    return request.path.rpartition("/")[2]
