"""A span for each dispatch, by OpenTelemetry. Imported only where ``tracing.enabled`` is set.

The context of the client's request (W3C Trace Context) is the span's parent; the
span's own context goes on to the worker with the dispatch, and from there to the
provider (``handler_host.plugin.provider_errors.trace_headers``).
"""

from __future__ import annotations

import asyncio
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from handler_host._internal.suggestions import did_you_mean
from handler_host._internal.versions import __version__
from handler_host.auth.consumer_auth import Endpoint
from handler_host.config import TracingConfig
from handler_host.http import request_context
from handler_host.plugin.errors import ConfigError, HostError

try:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ConfigError(
        f"tracing.enabled: OpenTelemetry is not installed ({error}): pip install 'handler-host[otel]'"
    ) from error

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

GROUP = "opentelemetry_traces_exporter"


class Tracing:
    """Makes the spans of one application; raises :class:`ConfigError` for an exporter that is not there.

    Where the process has a provider of its own already, that one is used, and left alone at the end.
    """

    def __init__(self, config: TracingConfig) -> None:
        self._own: TracerProvider | None = None
        provider = trace.get_tracer_provider()
        if not isinstance(provider, TracerProvider):
            resource = Resource.create()
            if str(resource.attributes.get(SERVICE_NAME)).startswith("unknown_service"):
                # The environment names none: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES.
                resource = Resource.create({SERVICE_NAME: "handler-host"})
            provider = self._own = TracerProvider(resource=resource)
            provider.add_span_processor(BatchSpanProcessor(_exporter(config.exporter)))
        self._tracer = provider.get_tracer("handler_host", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def traced(self, endpoint: Endpoint) -> Endpoint:
        """Return the endpoint of consumers with a span around each POST, to the last byte of its answer."""

        async def run(request: web.Request) -> web.StreamResponse:
            return await self._run(request, endpoint)

        return run

    async def _run(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        if request.method != hdrs.METH_POST:
            return await endpoint(request)
        current = request_context.current.get()
        parent = self._propagator.extract({name.lower(): value for name, value in request.headers.items()})
        span = self._tracer.start_span("dispatch", parent, kind=trace.SpanKind.SERVER)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        current.traceparent = carrier.get("traceparent")
        try:
            response = await endpoint(request)
        except BaseException as error:
            _note_error(span, error)
            raise
        else:
            span.set_attribute("http.response.status_code", response.status)
            return response
        finally:
            self._note(span, request, current)
            span.end()

    def _note(self, span: trace.Span, request: web.Request, current: request_context.RequestContext) -> None:
        resource = request.match_info.route.resource
        span.set_attribute("http.request.method", request.method)
        span.set_attribute("http.route", resource.canonical if resource is not None else "")
        span.set_attribute("handler_host.request_id", current.request_id)
        if current.handler is not None:
            span.set_attribute("handler_host.handler", current.handler)
            span.update_name(f"dispatch {current.handler}")

    async def close(self) -> None:
        """Send what is left; a collector that does not answer is waited for as long as the exporter waits."""
        if self._own is not None:
            await asyncio.to_thread(self._own.shutdown)


def _note_error(span: trace.Span, error: BaseException) -> None:
    """Note what ended a dispatch by its code: the text may have what the client has sent."""
    if isinstance(error, HostError):
        span.set_attribute("error.type", error.code)
        span.set_attribute("http.response.status_code", error.status)
    elif isinstance(error, web.HTTPException):
        span.set_attribute("http.response.status_code", error.status)
        return
    else:
        cancelled = isinstance(error, asyncio.CancelledError)
        span.set_attribute("error.type", "client_gone" if cancelled else type(error).__name__)
    span.set_status(trace.StatusCode.ERROR)


def _exporter(name: str) -> SpanExporter:
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise ConfigError(
            f"tracing.exporter = {name!r}: no such exporter is installed{did_you_mean(name, known)}; there are: "
            f"{', '.join(sorted(known)) or 'none'} (pip install 'handler-host[otel]')"
        )
    kind: Any = known[name].load()
    made: SpanExporter = kind()
    return made
