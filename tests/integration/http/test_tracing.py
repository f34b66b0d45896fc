"""A span for each dispatch, whose context goes from the client over the worker to the provider."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from handler_host.config import CatalogConfig, Config, HandlerPolicy, ServerConfig, TracingConfig
from handler_host.server import serving
from handler_host.testing import Upstream
from handler_host.testing.script import ProtocolName
from tests.integration.http.serving import PARROT
from tests.integration.http.test_server import ready, started
from tests.support import install_plugin, until, within

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
TRACED = '''
from handler_host.plugin import hookimpl, operation
from handler_host.plugin.trace import trace_headers

class Handler:
    """Tells what it would send to its provider."""

    @operation
    async def headers(self, request: dict, call) -> dict:
        return {"sent": trace_headers(), "told": call.traceparent}

    @hookimpl
    def activate(self, context):
        self.context = context

    @operation
    async def by_another(self, request: dict) -> dict:
        return await self.context.dispatch("other", "headers", {})

    @operation
    def in_thread(self, request: dict) -> dict:
        return {"sent": trace_headers()}
'''


@pytest.fixture(scope="module")
def exporter() -> Iterator[InMemorySpanExporter]:
    """Set up OpenTelemetry as an application would that mounts the host."""
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    trace.set_tracer_provider(provider)
    yield made
    provider.shutdown()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    exporter.clear()
    return exporter


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


@contextlib.asynccontextmanager
async def traced_host(root: Path, *, enabled: bool = True) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Run the host with a plugin that tells its trace, and one that chats; give a client and the URL."""
    install_plugin(root, "traced", TRACED)
    install_plugin(root, "parrot", PARROT)
    config = Config(
        server=ServerConfig(port=0),
        defaults=HandlerPolicy(preload=()),
        catalog=CatalogConfig(roots=(root,), include_sys_path=False),
        tracing=TracingConfig(enabled=enabled),
    )
    async with serving(config) as (_, url), aiohttp.ClientSession() as session:
        yield session, url


async def ask(session: aiohttp.ClientSession, url: str, operation: str = "headers") -> dict[str, Any]:
    async with session.post(
        f"{url}/v1/handlers/traced/{operation}", json={}, headers={"traceparent": PARENT}
    ) as response:
        found: dict[str, Any] = await within(response.json())
        return found


async def test_the_context_goes_from_the_client_to_the_providers_request(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async with traced_host(tmp_path) as (session, url):
        told = await ask(session, url)
        in_thread = await ask(session, url, "in_thread")
    first, second = spans.get_finished_spans()
    assert first.context is not None
    assert first.parent is not None
    assert told["told"] == f"00-{TRACE}-{first.context.span_id:016x}-01"
    assert told["sent"] == {"traceparent": told["told"]}
    assert (first.parent.span_id, first.parent.trace_id) == (0xB7AD6B7169203331, int(TRACE, 16))
    # Another dispatch is another span, also where the operation is a plain function.
    assert second.context is not None
    assert in_thread["sent"]["traceparent"] == f"00-{TRACE}-{second.context.span_id:016x}-01"


async def test_dispatches_to_another_handler_are_part_of_the_trace(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    install_plugin(tmp_path, "other", TRACED)
    async with traced_host(tmp_path) as (session, url):
        told = await ask(session, url, "by_another")
    (span,) = spans.get_finished_spans()
    assert span.context is not None
    assert told["sent"] == {"traceparent": f"00-{TRACE}-{span.context.span_id:016x}-01"}


async def test_a_span_tells_the_dispatch_and_how_it_ended(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    async with traced_host(tmp_path) as (session, url):
        body = {"model": "parrot", "messages": [{"role": "user", "content": "LIMIT"}], "stream": False}
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            assert response.status == 429
            number = response.headers["X-Request-ID"]
        async with session.post(f"{url}/v1/handlers/traced/headers", json={}) as response:
            assert response.status == 200
        async with session.get(f"{url}/v1/handlers") as response:
            assert response.status == 200
    failed, well = spans.get_finished_spans()
    assert failed.name == "dispatch parrot"
    assert failed.parent is None
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert attributes(failed) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 429,
        "error.type": "upstream_rate_limited",
        "handler_host.request_id": number,
        "handler_host.handler": "parrot",
    }
    assert well.status.status_code is trace.StatusCode.UNSET
    assert attributes(well)["http.response.status_code"] == 200


async def test_the_span_of_a_stream_ends_with_its_last_byte(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    async with traced_host(tmp_path) as (session, url):
        body = {"model": "parrot", "messages": [{"role": "user", "content": "a b"}], "stream": True}
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            assert "[DONE]" in await within(response.text())
        await until(lambda: len(spans.get_finished_spans()) == 1)


async def test_without_tracing_nothing_is_sent(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    async with traced_host(tmp_path, enabled=False) as (session, url):
        assert await ask(session, url) == {"sent": {}, "told": None}
    assert spans.get_finished_spans() == ()


async def test_without_tracing_opentelemetry_is_not_imported() -> None:
    program = (
        "import sys, handler_host.server, handler_host.workers.runtime.host_connection; "
        "from handler_host.app import create_app; create_app(); "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await within(process.wait()) == 0


async def test_the_exporter_gets_all_spans_before_the_host_ends(tmp_path: Path) -> None:
    """Given that of OpenTelemetry which prints to standard output."""
    install_plugin(tmp_path, "traced", TRACED)
    lines = ("[server]", "port = 0", "[tracing]", "enabled = true", 'exporter = "console"')
    async with ready(tmp_path, *lines) as host, aiohttp.ClientSession() as session:
        told = await ask(session, host.url)
        host.process.send_signal(signal.SIGTERM)
        out, _ = await host.output()
    span = json.loads(out)
    assert span["name"] == "dispatch traced"
    assert span["context"]["span_id"] == f"0x{told['told'].split('-')[2]}"
    assert span["resource"]["attributes"]["service.name"] == "handler-host"


async def test_an_exporter_that_is_not_installed_is_named(tmp_path: Path) -> None:
    lines = ("[server]", "port = 0", "[tracing]", "enabled = true", 'exporter = "consle"')
    async with started(tmp_path, *lines) as host:
        out, errors = await host.output()
        assert (out, host.process.returncode) == ("", 1)
        assert "tracing.exporter = 'consle': no such exporter is installed; did you mean 'console'?" in errors
        assert "Traceback" not in errors


async def test_without_opentelemetry_the_extra_is_named(tmp_path: Path) -> None:
    package = tmp_path / "hidden" / "opentelemetry"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('no OpenTelemetry here')")
    lines = ("[server]", "port = 0", "[tracing]", "enabled = true")
    async with started(tmp_path, *lines, environment={"PYTHONPATH": str(package.parent)}) as host:
        _, errors = await host.output()
        assert host.process.returncode == 1
        assert "pip install 'handler-host[otel]'" in errors


def sdk(handler: str, protocol: ProtocolName, provider: Upstream) -> dict[str, Any]:
    """Return the configuration of a handler whose provider is the scripted one."""
    base = provider.base_url(protocol)
    if handler != "gpt_d":
        return {"base_url": base, "retries": 0}
    if protocol == "gemini":
        base += "/v1beta"
    return {"model": f"{protocol}/a-model", "api_base": {protocol: base}, "headers": {"x-own": "kept"}, "retries": 0}


SDKS: list[tuple[str, ProtocolName, dict[str, Any]]] = [
    ("gpt_a", "openai", {}),
    ("gpt_b", "anthropic", {}),
    ("gpt_c", "gemini", {"sdk": "google-generativeai"}),
    ("gpt_c", "gemini", {"sdk": "google-genai"}),
    ("gpt_d", "openai", {}),
    ("gpt_d", "anthropic", {}),
    ("gpt_d", "gemini", {}),
    ("gpt_d", "openai", {"model": "routed", "deployments": [{"name": "routed", "model": "openai/a-model"}]}),
]


@pytest.mark.parametrize(
    ("handler", "protocol", "more"),
    [pytest.param(*case, marks=() if case[0] == "gpt_a" else pytest.mark.sdks) for case in SDKS],
)
async def test_an_sdks_request_to_its_provider_is_a_part_of_the_trace(
    handler: str, protocol: ProtocolName, more: dict[str, Any], spans: InMemorySpanExporter
) -> None:
    async with Upstream().serve() as provider:
        config = Config(
            server=ServerConfig(port=0),
            tracing=TracingConfig(enabled=True),
            handlers={handler: sdk(handler, protocol, provider) | more},
        )
        async with serving(config) as (_, url), aiohttp.ClientSession() as session:
            messages = [{"role": "user", "content": "Hi"}]
            requests: list[tuple[str, dict[str, Any]]] = [
                ("chat/completions", {"model": handler, "stream": stream, "messages": messages})
                for stream in (False, True)
            ]
            if handler != "gpt_d":  # it has no token counts of its providers
                requests.append((f"handlers/{handler}/count_tokens", {"messages": messages}))
            for path, body in requests:
                spans.clear()
                async with session.post(f"{url}/v1/{path}", json=body) as response:
                    assert response.status == 200, await response.text()
                    await within(response.read())
                await until(lambda: len(spans.get_finished_spans()) == 1)
                (span,) = spans.get_finished_spans()
                assert span.context is not None
                expected = f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-"
                assert provider.last_request.headers["traceparent"].startswith(expected)
                if handler == "gpt_d":
                    assert provider.last_request.headers["x-own"] == "kept"
