"""Trace of the current dispatch (W3C Trace Context)."""

from __future__ import annotations

import contextvars

traceparent: contextvars.ContextVar[str | None] = contextvars.ContextVar("traceparent", default=None)
"""That of the dispatch which is being served."""


def trace_headers() -> dict[str, str]:
    """Return the headers that make a request to a provider a part of the dispatch's trace; none if it is not traced."""
    parent = traceparent.get()
    return {} if parent is None else {"traceparent": parent}
