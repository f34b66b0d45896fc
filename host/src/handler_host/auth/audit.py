"""The audit log: who has done what to the host, and what came of it.

One line of the log each (logger ``handler_host.audit``), and an event ``audit``.
"""

from __future__ import annotations

import logging
import time

from aiohttp import web

from handler_host.auth.consumer_auth import Endpoint
from handler_host.http import request_context
from handler_host.http.client_address import address_of
from handler_host.plugin.errors import HostError
from handler_host.telemetry.events import EventHub

log = logging.getLogger("handler_host.audit")

READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Audit:
    """Writes the audit log."""

    def __init__(self, events: EventHub) -> None:
        self._events = events

    def audited(self, endpoint: Endpoint) -> Endpoint:
        """Return ``endpoint`` with a line for each request that changes something."""

        async def run(request: web.Request) -> web.StreamResponse:
            if request.method in READING:
                return await endpoint(request)
            begun = time.monotonic()
            result, status = HostError.code, 500
            try:
                response = await endpoint(request)
                status = response.status
                result = "accepted" if status == 202 else "ok"
            except HostError as error:
                result, status = error.code, error.status
                raise
            finally:
                self.note(request, _action(request), result, status=status, seconds=time.monotonic() - begun)
            return response

        return run

    def note(self, request: web.Request, action: str, result: str, **figures: object) -> None:
        """Write a line."""
        current = request_context.current.get()
        fields: dict[str, object] = {
            "who": current.operator or "nobody",
            "from": address_of(request),
            "action": action,
            "handler": request.match_info.get("name"),
            "options": dict(request.query) or None,
            "result": result,
            "request_id": current.request_id,
            **figures,
        }
        shown = {name: value for name, value in fields.items() if value is not None}
        log.info("audit", extra={"fields": shown})
        self._events.publish("audit", shown)


def _action(request: web.Request) -> str:
    """Return what the request does: the last word of its route, ``unload``; for a dispatch with its operation."""
    operation = request.match_info.get("operation")
    if operation is not None:
        return f"dispatch {operation}"
    return request.path.rpartition("/")[2]
