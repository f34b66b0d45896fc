"""Whether the host lives, and whether it takes work. A cold or loading handler never makes it unready."""

from __future__ import annotations

from collections import Counter

from aiohttp import web

from handler_host.http.responses import json_response
from handler_host.lifecycle.supervisor import Supervisor


class HealthRoutes:
    """The routes of probes, which need no key."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def routes(self) -> list[web.RouteDef]:
        """Return them, for the composition root to guard and to add."""
        return [web.get("/health/live", self.live), web.get("/health/ready", self.ready)]

    async def live(self, request: web.Request) -> web.StreamResponse:
        """200 as long as the event loop turns."""
        return json_response({"live": True})

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """200, or 503 with the reasons."""
        reasons = ["draining: new work is refused"] if self._supervisor.draining else []
        if self._supervisor.stopping_soon and not reasons:
            reasons.append("shutting down: requests are served for server.shutdown_delay")
        handlers = Counter(status.state for status in self._supervisor.statuses())
        verified = self._supervisor.verified
        response: dict[str, object] = {"ready": not reasons, "reasons": reasons, "handlers": handlers}
        response["pending"] = await self._supervisor.pending_work.counts()
        if verified is not None:
            response["verify"] = verified
            if self._supervisor.config.verify.on_failure == "exit" and verified.state in ("running", "failed"):
                # A platform that waits for readiness keeps the old deploy until this one is known to be good.
                reasons.append(f"the check of this deploy: {verified.state}")
                response["ready"] = False
        return json_response(response, status=503 if reasons else 200)
