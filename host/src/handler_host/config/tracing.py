"""``[tracing]``: spans of dispatches."""

from __future__ import annotations

from handler_host.config.fields import Section


class TracingConfig(Section, frozen=True, kw_only=True):
    """``[tracing]``: a span for each dispatch, by OpenTelemetry; needs ``handler-host[otel]``."""

    enabled: bool = False
    """Whether to trace.

    The context (``traceparent``) comes from the client's request and is passed on to the worker and from there to
    the provider (gpt_a, gpt_b, gpt_c, gpt_d).
    """
    exporter: str = "otlp_proto_http"
    """Name of an installed OpenTelemetry exporter; ``console`` prints.

    The name in the entry-point group ``opentelemetry_traces_exporter``. OpenTelemetry's own variables
    (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER``) apply.
    """
