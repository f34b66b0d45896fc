"""Trace of the current dispatch (W3C Trace Context)."""

from __future__ import annotations

import contextvars

traceparent: contextvars.ContextVar[str | None] = contextvars.ContextVar("traceparent", default=None)
"""``traceparent`` of the dispatch that runs in this context; None if it is not traced."""


def trace_headers() -> dict[str, str]:
    """Return headers that add a request to a provider to the trace of the dispatch; empty if it is not traced."""
    parent = traceparent.get()
    return {} if parent is None else {"traceparent": parent}
