"""``GET /metrics``: what Prometheus reads, by ``prometheus_client`` on both ends."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from handler_host.config import MetricsConfig
from handler_host.telemetry.counters import BOUNDS, RECENT, Counters, Dispatch, Histogram, LatencyWindow
from handler_host.telemetry.metric_families import MEANINGS
from tests.integration.http.serving import ADMIN, Host, running
from tests.support import install_puppet, until, within

OPERATOR = {"Authorization": f"Bearer {ADMIN}"}
SSE = {"Accept": "text/event-stream", "Content-Type": "application/json"}
EXAMPLES = Path(__file__).parents[3] / "examples/ops"


class Samples(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Samples by name and labels."""

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that have these labels."""
        wanted = set(labels.items())
        found = [value for (known, given), value in self.items() if known == name and wanted <= given]
        return sum(found)


async def scrape(host: Host, headers: Mapping[str, str] = OPERATOR) -> Samples:
    async with host.ask("GET", "/metrics", headers=dict(headers)) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/plain")
        text = await response.text()
    return Samples(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )


async def test_dispatches_are_counted_by_operation_and_result_and_their_time_is_split(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        for operation in ("echo", "echo", "fail", "nonsense"):
            await host.json("POST", f"/v1/handlers/puppet/{operation}", data="{}")
        async with host.ask("POST", "/v1/handlers/puppet/stream", data='{"steps": ["", ""]}', headers=SSE) as response:
            await within(response.read())
        found = await scrape(host)
        total = "handler_host_dispatches_total"
        assert found.value(total, handler="puppet", operation="echo", result="ok") == 2
        assert found.value(total, handler="puppet", operation="fail", result="handler_error") == 1
        assert found.value(total, handler="puppet", operation="stream", result="ok") == 1
        assert found.value("handler_host_handler_seconds_count", handler="puppet") == 4
        assert found.value("handler_host_first_chunk_seconds_count", handler="puppet") == 1
        assert found.value("handler_host_activation_wait_seconds_count", handler="puppet") == 1
        assert found.value("handler_host_activation_wait_seconds_sum", handler="puppet") > 0
        assert found.value("handler_host_queue_seconds_bucket", handler="puppet", le="+Inf") == 4
        status = host.supervisor.status("puppet")
        assert status.error_rate == 0.25
        assert status.median_seconds is not None
        assert status.p99_seconds is not None
        assert 0 < status.median_seconds <= status.p99_seconds


async def test_a_handler_that_was_never_asked_has_no_histograms(tmp_path: Path) -> None:
    """Four of 15 buckets each: with many cold handlers they would be most of what a scrape costs."""
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        assert (await host.admin("GET", "/handlers"))[0] == 200
        found = await scrape(host)
        assert found.value("handler_host_handler_state", handler="puppet") == 1
        assert not [name for name, labels in found if name.endswith("_bucket") and ("handler", "puppet") in labels]
        await host.json("POST", "/v1/handlers/puppet/echo", data="{}")
        found = await scrape(host)
        assert found.value("handler_host_handler_seconds_count", handler="puppet") == 1
        assert ("handler_host_first_chunk_seconds_count", frozenset({("handler", "puppet")})) in found


async def test_a_client_that_leaves_is_no_error_of_the_handler(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        body = '{"steps": ["", "forever"]}'
        async with host.ask("POST", "/v1/handlers/puppet/stream", data=body, headers=SSE) as stream:
            await within(stream.content.readuntil(b"\n\n"))
        await until(lambda: host.supervisor.in_flight == 0)
        asked = asyncio.ensure_future(host.json("POST", "/v1/handlers/puppet/script", data='{"steps": ["forever"]}'))
        await until(lambda: host.supervisor.in_flight == 1)
        asked.cancel()
        await until(lambda: host.supervisor.in_flight == 0)
        found = await scrape(host)
        for operation in ("stream", "script"):
            assert found.value("handler_host_dispatches_total", operation=operation, result="cancelled") == 1
        assert host.supervisor.status("puppet").error_rate == 0


async def test_operations_that_clients_make_up_share_one_label(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path, policy={"max_queue": 0}) as host:
        for number in range(5):  # refused before anybody knows which operations there are
            await host.json("POST", f"/v1/handlers/puppet/made-up-{number}", data="{}")
        found = await scrape(host)
        operations = {dict(labels)["operation"] for name, labels in found if name == "handler_host_dispatches_total"}
        assert operations == {"other"}
        assert found.value("handler_host_dispatches_total", operation="other", result="queue_full") == 5


async def test_the_life_of_workers_and_their_memory_is_counted(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        await host.supervisor.load("puppet")
        await until(lambda: any(event.kind == "activated" for event in host.supervisor.observation.events.past))
        found = await scrape(host)
        worker = found.value("handler_host_pss_bytes", process="worker", handler="puppet")
        assert worker > 0
        assert found.value("handler_host_pss_bytes") == found.value("handler_host_memory_used_bytes")
        assert found.value("handler_host_activations_total", handler="puppet", cause="operator", result="ok") == 1
        assert found.value("handler_host_handler_state", handler="puppet", state="idle") == 1
        await host.supervisor.unload("puppet")
        status, _ = await host.json("POST", "/v1/handlers/puppet/script", data='{"steps": ["exit:3"]}')
        assert status == 502
        await until(lambda: [e.kind for e in host.supervisor.observation.events.past].count("unloaded") == 2)
        found = await scrape(host)
        assert found.value("handler_host_unloads_total", handler="puppet", cause="operator") == 1
        assert found.value("handler_host_crashes_total", handler="puppet", kind="crash") == 1
        assert found.value("handler_host_given_back_bytes_total", handler="puppet") > 0
        assert found.value("handler_host_activations_total", handler="puppet", cause="dispatch", result="ok") == 1


async def test_metrics_need_the_admin_token_unless_they_are_public(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        assert (await host.json("GET", "/metrics"))[0] == 401
    async with running(tmp_path, metrics=MetricsConfig(public=True)) as host:
        assert (await scrape(host, {})).value("handler_host_build_info") == 1


async def test_openmetrics_is_given_to_who_asks_for_it(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        headers = OPERATOR | {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with host.ask("GET", "/metrics", headers=headers) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            assert (await response.text()).endswith("# EOF\n")


async def test_a_scrape_during_the_shutdown_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        await host.supervisor.close()
        found = await scrape(host)
        assert found.value("handler_host_draining") == 1
        assert found.value("handler_host_memory_used_bytes") > 0


async def test_the_lag_of_the_event_loop_is_measured_while_somebody_scrapes(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        await scrape(host)
        async with asyncio.timeout(30):
            while (await scrape(host)).value("handler_host_loop_lag_seconds_count") < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_however_many_look_one_measures(tmp_path: Path) -> None:
    async with running(tmp_path) as host:
        supervisor = host.supervisor
        await supervisor.refresh()
        reading = supervisor.last_memory()
        await asyncio.gather(*(supervisor.refresh() for _ in range(50)))
        assert supervisor.last_memory() == reading


WITHOUT_LIBRARY = """
import asyncio, sys
sys.modules["prometheus_client"] = None
import aiohttp
from handler_host.config import Config, LogConfig, MetricsConfig, ServerConfig
from handler_host.server import serving

async def main():
    config = Config(server=ServerConfig(port=0), log=LogConfig(level="error"), metrics=MetricsConfig(public=True))
    async with serving(config) as (_, url), aiohttp.ClientSession() as session, session.get(url + "/metrics") as answer:
        print(answer.status, await answer.text())

asyncio.run(main())
"""


def test_without_the_library_the_answer_names_the_remedy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBRARY], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("501 ")
    assert "pip install 'handler-host[metrics]'" in done.stdout


def test_a_histogram_counts_each_duration_in_one_bucket() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] + 1e-9, BOUNDS[-1], BOUNDS[-1] + 1):
        histogram.observe(seconds)
    assert (histogram.counts[0], histogram.counts[1], histogram.counts[-2], histogram.counts[-1]) == (2, 1, 1, 1)
    assert sum(histogram.counts) == 5


def test_percentiles_and_error_rate_are_of_the_last_dispatches_only() -> None:
    recent = LatencyWindow()
    assert (recent.quantile(0.5), recent.error_rate()) == (None, None)
    for _ in range(RECENT):
        recent.add(100.0, failed=True)
    for number in range(RECENT):
        recent.add(float(number), failed=number % 4 == 0)
    assert recent.quantile(0.5) == RECENT / 2
    assert recent.quantile(0.99) == RECENT - 3
    assert recent.error_rate() == 0.25


@pytest.mark.parametrize(
    ("result", "rate"),
    [("ok", 0.0), ("cancelled", 0.0), ("invalid_input", 0.0), ("queue_full", 1.0), ("handler_error", 1.0), ("?", 1.0)],
)
def test_only_what_is_not_the_clients_fault_is_an_error(result: str, rate: float) -> None:
    counters = Counters()
    counters.dispatched(
        Dispatch("a", "chat", result, queue=0.0, activate=0.0, handle=0.1, first_chunk=None, consumer="team")
    )
    assert counters.of("a").recent.error_rate() == rate
    assert counters.by_consumer == {("team", "a", result): 1}


def promtool(*words: str) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool here: apt-get install prometheus")
    done = subprocess.run([found, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_alerts_are_right_and_fire_when_they_should() -> None:
    promtool("check", "rules", str(EXAMPLES / "alerts.yml"))
    promtool("test", "rules", str(EXAMPLES / "alerts_test.yml"))


def test_the_example_scrape_configuration_is_right() -> None:
    promtool("check", "config", "--syntax-only", str(EXAMPLES / "prometheus.yml"))


async def test_promtool_finds_nothing_to_object_to_in_the_metrics(tmp_path: Path) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool here: apt-get install prometheus")
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        await host.json("POST", "/v1/handlers/puppet/echo", data="{}")
        async with host.ask("GET", "/metrics", headers=OPERATOR) as response:
            text = await response.text()
    done = subprocess.run([found, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    objections = [line for line in done.stderr.splitlines() if line.startswith("handler_host_")]
    assert not objections


def expressions() -> list[str]:
    """Return the queries of the example dashboard and alerts."""
    board = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    alerts = [
        line.partition("expr:")[2] for line in (EXAMPLES / "alerts.yml").read_text().splitlines() if "expr:" in line
    ]
    assert queries
    assert alerts
    return queries + alerts


def test_the_examples_ask_only_for_what_there_is() -> None:
    asked = {name for query in expressions() for name in re.findall(r"\bhandler_host_\w+", query)}
    known = {name + suffix for name in MEANINGS for suffix in ("", "_bucket", "_sum", "_count")}
    assert asked <= known, asked - known
