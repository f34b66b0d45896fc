"""The Prometheus and Grafana examples, checked by ``promtool`` and against the metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from handler_host.telemetry.metric_families import MEANINGS
from tests.integration.http.serving import ADMIN, running
from tests.support import install_puppet

EXAMPLES = Path(__file__).parents[3] / "examples/ops"


@pytest.fixture
def promtool() -> str:
    """Return the path of promtool, or skip the test."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    return path


def run(*command: str) -> None:
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stdout + process.stderr


class TestPromtool:
    def test_alerts_fire(self, promtool: str) -> None:
        run(promtool, "check", "rules", str(EXAMPLES / "alerts.yml"))
        run(promtool, "test", "rules", str(EXAMPLES / "alerts_test.yml"))

    def test_scrape_configuration(self, promtool: str) -> None:
        run(promtool, "check", "config", "--syntax-only", str(EXAMPLES / "prometheus.yml"))

    async def test_metrics(self, promtool: str, tmp_path: Path) -> None:
        install_puppet(tmp_path)
        async with running(tmp_path) as host:
            await host.json("POST", "/v1/handlers/puppet/echo", data="{}")
            async with host.ask("GET", "/metrics", headers={"Authorization": f"Bearer {ADMIN}"}) as response:
                text = await response.text()
        process = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
        objections = [line for line in process.stderr.splitlines() if line.startswith("handler_host_")]
        assert not objections


def queries() -> list[str]:
    """Return the queries of the example dashboard and alerts."""
    board = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    alerts = [
        line.partition("expr:")[2] for line in (EXAMPLES / "alerts.yml").read_text().splitlines() if "expr:" in line
    ]
    assert panels
    assert alerts
    return panels + alerts


class TestQueries:
    def test_use_only_metrics_that_exist(self) -> None:
        used = {name for query in queries() for name in re.findall(r"\bhandler_host_\w+", query)}
        known = {name + suffix for name in MEANINGS for suffix in ("", "_bucket", "_sum", "_count")}
        assert used <= known, used - known
