"""``GET /metrics``, scraped and parsed by ``prometheus_client``."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from handler_host.config import MetricsConfig
from tests.integration.http.serving import ADMIN, Host, running
from tests.support import install_puppet, until, within

OPERATOR = {"Authorization": f"Bearer {ADMIN}"}
SSE = {"Accept": "text/event-stream", "Content-Type": "application/json"}
TOTAL = "handler_host_dispatches_total"


class Samples(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Samples by name and labels."""

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that have these labels."""
        required = set(labels.items())
        return sum(value for (known, pairs), value in self.items() if known == name and required <= pairs)


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


def past_kinds(host: Host) -> list[str]:
    return [event.kind for event in host.supervisor.telemetry.events.past]


class TestDispatches:
    async def test_by_operation_result_and_phase(self, tmp_path: Path) -> None:
        install_puppet(tmp_path)
        async with running(tmp_path) as host:
            for operation in ("echo", "echo", "fail", "nonsense"):
                await host.json("POST", f"/v1/handlers/puppet/{operation}", data="{}")
            body = '{"steps": ["", ""]}'
            async with host.ask("POST", "/v1/handlers/puppet/stream", data=body, headers=SSE) as response:
                await within(response.read())
            metrics = await scrape(host)
            assert metrics.value(TOTAL, handler="puppet", operation="echo", result="ok") == 2
            assert metrics.value(TOTAL, handler="puppet", operation="fail", result="handler_error") == 1
            assert metrics.value(TOTAL, handler="puppet", operation="stream", result="ok") == 1
            assert metrics.value("handler_host_handler_seconds_count", handler="puppet") == 4
            assert metrics.value("handler_host_first_chunk_seconds_count", handler="puppet") == 1
            assert metrics.value("handler_host_activation_wait_seconds_count", handler="puppet") == 1
            assert metrics.value("handler_host_activation_wait_seconds_sum", handler="puppet") > 0
            assert metrics.value("handler_host_queue_seconds_bucket", handler="puppet", le="+Inf") == 4
            status = host.supervisor.status("puppet")
            assert status.error_rate == 0.25
            assert status.median_seconds is not None
            assert status.p99_seconds is not None
            assert 0 < status.median_seconds <= status.p99_seconds

    async def test_unused_handler_has_no_histograms(self, tmp_path: Path) -> None:
        """Four of 15 buckets each: for many cold handlers they would be most of the cost of a scrape."""
        install_puppet(tmp_path)
        async with running(tmp_path) as host:
            assert (await host.admin("GET", "/handlers"))[0] == 200
            metrics = await scrape(host)
            assert metrics.value("handler_host_handler_state", handler="puppet") == 1
            buckets = [name for name, labels in metrics if name.endswith("_bucket") and ("handler", "puppet") in labels]
            assert not buckets
            await host.json("POST", "/v1/handlers/puppet/echo", data="{}")
            metrics = await scrape(host)
            assert metrics.value("handler_host_handler_seconds_count", handler="puppet") == 1
            assert ("handler_host_first_chunk_seconds_count", frozenset({("handler", "puppet")})) in metrics

    async def test_disconnected_client_is_no_failure_of_the_handler(self, tmp_path: Path) -> None:
        install_puppet(tmp_path)
        async with running(tmp_path) as host:
            body = '{"steps": ["", "forever"]}'
            async with host.ask("POST", "/v1/handlers/puppet/stream", data=body, headers=SSE) as stream:
                await within(stream.content.readuntil(b"\n\n"))
            await until(lambda: host.supervisor.in_flight == 0)
            work = host.json("POST", "/v1/handlers/puppet/script", data='{"steps": ["forever"]}')
            request = asyncio.ensure_future(work)
            await until(lambda: host.supervisor.in_flight == 1)
            request.cancel()
            await until(lambda: host.supervisor.in_flight == 0)
            metrics = await scrape(host)
            for operation in ("stream", "script"):
                assert metrics.value(TOTAL, operation=operation, result="cancelled") == 1
            assert host.supervisor.status("puppet").error_rate == 0

    async def test_unknown_operations_share_a_label(self, tmp_path: Path) -> None:
        install_puppet(tmp_path)
        async with running(tmp_path, policy={"max_queue": 0}) as host:
            for number in range(5):  # rejected before a worker has declared its operations
                await host.json("POST", f"/v1/handlers/puppet/made-up-{number}", data="{}")
            metrics = await scrape(host)
            assert {dict(labels)["operation"] for name, labels in metrics if name == TOTAL} == {"other"}
            assert metrics.value(TOTAL, operation="other", result="queue_full") == 5


class TestWorkers:
    async def test_activations_unloads_and_memory(self, tmp_path: Path) -> None:
        install_puppet(tmp_path)
        async with running(tmp_path) as host:
            await host.supervisor.load("puppet")
            await until(lambda: "activated" in past_kinds(host))
            metrics = await scrape(host)
            assert metrics.value("handler_host_pss_bytes", process="worker", handler="puppet") > 0
            assert metrics.value("handler_host_pss_bytes") == metrics.value("handler_host_memory_used_bytes")
            activations = "handler_host_activations_total"
            assert metrics.value(activations, handler="puppet", cause="operator", result="ok") == 1
            assert metrics.value("handler_host_handler_state", handler="puppet", state="idle") == 1
            await host.supervisor.unload("puppet")
            status, _ = await host.json("POST", "/v1/handlers/puppet/script", data='{"steps": ["exit:3"]}')
            assert status == 502
            await until(lambda: past_kinds(host).count("unloaded") == 2)
            metrics = await scrape(host)
            assert metrics.value("handler_host_unloads_total", handler="puppet", cause="operator") == 1
            assert metrics.value("handler_host_crashes_total", handler="puppet", kind="crash") == 1
            assert metrics.value("handler_host_given_back_bytes_total", handler="puppet") > 0
            assert metrics.value(activations, handler="puppet", cause="dispatch", result="ok") == 1


WITHOUT_LIBRARY = """
import asyncio, sys
sys.modules["prometheus_client"] = None
import aiohttp
from handler_host.config import Config, LogConfig, MetricsConfig, ServerConfig
from handler_host.server import serving

async def main():
    config = Config(server=ServerConfig(port=0), log=LogConfig(level="error"), metrics=MetricsConfig(public=True))
    async with serving(config) as (_, url), aiohttp.ClientSession() as session:
        async with session.get(url + "/metrics") as response:
            print(response.status, await response.text())

asyncio.run(main())
"""


class TestScrape:
    async def test_needs_the_admin_token_unless_public(self, tmp_path: Path) -> None:
        async with running(tmp_path) as host:
            assert (await host.json("GET", "/metrics"))[0] == 401
        async with running(tmp_path, metrics=MetricsConfig(public=True)) as host:
            assert (await scrape(host, {})).value("handler_host_build_info") == 1

    async def test_openmetrics(self, tmp_path: Path) -> None:
        async with running(tmp_path) as host:
            headers = OPERATOR | {"Accept": "application/openmetrics-text; version=1.0.0"}
            async with host.ask("GET", "/metrics", headers=headers) as response:
                assert response.headers["Content-Type"].startswith("application/openmetrics-text")
                assert (await response.text()).endswith("# EOF\n")

    async def test_during_shutdown(self, tmp_path: Path) -> None:
        async with running(tmp_path) as host:
            await host.supervisor.close()
            metrics = await scrape(host)
            assert metrics.value("handler_host_draining") == 1
            assert metrics.value("handler_host_memory_used_bytes") > 0

    async def test_starts_the_measurement_of_the_loop_lag(self, tmp_path: Path) -> None:
        async with running(tmp_path) as host:
            await scrape(host)
            async with asyncio.timeout(30):
                while (await scrape(host)).value("handler_host_loop_lag_seconds_count") < 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    async def test_concurrent_ones_share_a_measurement(self, tmp_path: Path) -> None:
        async with running(tmp_path) as host:
            supervisor = host.supervisor
            await supervisor.refresh()
            reading = supervisor.last_memory()
            await asyncio.gather(*(supervisor.refresh() for _ in range(50)))
            assert supervisor.last_memory() == reading

    def test_without_the_library(self) -> None:
        script = subprocess.run(
            [sys.executable, "-c", WITHOUT_LIBRARY], capture_output=True, text=True, check=True, timeout=60
        )
        assert script.stdout.startswith("501 ")
        assert "pip install 'handler-host[metrics]'" in script.stdout
