"""``GET /metrics``: the host's metrics for Prometheus, rendered by ``prometheus_client``.

The host counts by itself (``handler_host.telemetry.counters``). The first scrape imports the
library (1.1 MB), and each scrape collects all metrics again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import NotInstalled
from handler_host.telemetry.loop_lag import LoopLag

if TYPE_CHECKING:
    from handler_host.telemetry.metric_families import HostCollector


class MetricsRoutes:
    """Route of the metrics."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._lag = LoopLag()
        self._collector: HostCollector | None = None

    def routes(self) -> list[web.RouteDef]:
        """Return the route, for the composition root to guard and add."""
        return [web.get("/metrics", self.show)]

    def close(self) -> None:
        """Stop measuring the loop's lag."""
        self._lag.stop()

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Serve all metrics; raises ``NotInstalled`` without the library."""
        collector = self._get_collector()
        self._lag.keep_measuring()
        await self._supervisor.refresh()
        kind, body = collector.render(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: kind})

    def _get_collector(self) -> HostCollector:
        if self._collector is None:
            try:
                from handler_host.telemetry.metric_families import HostCollector
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] != "prometheus_client":
                    raise
                raise NotInstalled(
                    "/metrics needs prometheus_client: pip install 'handler-host[metrics]', then restart the host"
                ) from None
            self._collector = HostCollector(self._supervisor, self._supervisor.telemetry, self._lag)
        return self._collector
