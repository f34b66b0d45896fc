"""Middleware for OpenTelemetry: one span per dispatch. Imported only if ``tracing.enabled`` is set.

The context of the client's request (W3C Trace Context) is the parent of the span; the span's own context goes to the
worker with the dispatch, and from there to the provider (``handler_host.plugin.trace_headers``).
"""

from __future__ import annotations

import asyncio
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from handler_host._internal.suggestions import did_you_mean
from handler_host._internal.versions import __version__
from handler_host.config import TracingConfig
from handler_host.http import request_context
from handler_host.http.routing import Endpoint
from handler_host.plugin.errors import ConfigError, HostError

try:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ConfigError(
        f"tracing.enabled: OpenTelemetry is not installed ({error}); pip install 'handler-host[otel]'"
    ) from error

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORTER_GROUP = "opentelemetry_traces_exporter"


class TracingMiddleware:
    """Tracing of one application; raises :class:`ConfigError` for an unknown exporter.

    A tracer provider that the process already has is used, and not shut down at the end.
    """

    def __init__(self, config: TracingConfig) -> None:
        self._own_provider: TracerProvider | None = None
        provider = trace.get_tracer_provider()
        if not isinstance(provider, TracerProvider):
            resource = Resource.create()
            if str(resource.attributes.get(SERVICE_NAME)).startswith("unknown_service"):
                # Neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES names the service.
                resource = Resource.create({SERVICE_NAME: "handler-host"})
            provider = self._own_provider = TracerProvider(resource=resource)
            provider.add_span_processor(BatchSpanProcessor(_exporter(config.exporter)))
        self._tracer = provider.get_tracer("handler_host", __version__)
        self._propagator = TraceContextTextMapPropagator()

    async def handle(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Run the endpoint, for a POST within a span that ends with the last byte of the response."""
        if request.method != hdrs.METH_POST:
            return await endpoint(request)
        context = request_context.current.get()
        parent = self._propagator.extract({name.lower(): value for name, value in request.headers.items()})
        span = self._tracer.start_span("dispatch", parent, kind=trace.SpanKind.SERVER)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        context.traceparent = carrier.get("traceparent")
        try:
            response = await endpoint(request)
        except BaseException as error:
            _note_error(span, error)
            raise
        else:
            span.set_attribute("http.response.status_code", response.status)
            return response
        finally:
            self._note_request(span, request, context)
            span.end()

    def _note_request(self, span: trace.Span, request: web.Request, context: request_context.RequestContext) -> None:
        resource = request.match_info.route.resource
        span.set_attribute("http.request.method", request.method)
        span.set_attribute("http.route", resource.canonical if resource is not None else "")
        span.set_attribute("handler_host.request_id", context.request_id)
        if context.handler is not None:
            span.set_attribute("handler_host.handler", context.handler)
            span.update_name(f"dispatch {context.handler}")

    async def close(self) -> None:
        """Send the remaining spans, within the exporter's own timeout."""
        if self._own_provider is not None:
            await asyncio.to_thread(self._own_provider.shutdown)


def _note_error(span: trace.Span, error: BaseException) -> None:
    """Note the code of an error, not its text, which may contain what the client sent."""
    if isinstance(error, HostError):
        span.set_attribute("error.type", error.code)
        span.set_attribute("http.response.status_code", error.status)
    elif isinstance(error, web.HTTPException):
        span.set_attribute("http.response.status_code", error.status)
        return
    else:
        is_cancelled = isinstance(error, asyncio.CancelledError)
        span.set_attribute("error.type", "client_gone" if is_cancelled else type(error).__name__)
    span.set_status(trace.StatusCode.ERROR)


def _exporter(name: str) -> SpanExporter:
    known = {entry.name: entry for entry in entry_points(group=EXPORTER_GROUP)}
    if name not in known:
        raise ConfigError(
            f"tracing.exporter = {name!r}: no such exporter is installed{did_you_mean(name, known)}; installed: "
            f"{', '.join(sorted(known)) or 'none'} (pip install 'handler-host[otel]')"
        )
    exporter_class: Any = known[name].load()
    exporter: SpanExporter = exporter_class()
    return exporter
