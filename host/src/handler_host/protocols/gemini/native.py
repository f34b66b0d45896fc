"""Native operations of Gemini's API: content, token counts and embeddings. The model is in the path, or in both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from handler_host.channel.native_messages import Span
from handler_host.protocols.gemini import KEEP_ALIVE
from handler_host.protocols.gemini.errors import error_events
from handler_host.protocols.json_fields import Value, fields_of, items_of
from handler_host.protocols.native_operation import NativeOperation

PREFIX = "models/"
_INNER = ("generateContentRequest", "generate_content_request")


def _model_spans(body: bytes, fields: Mapping[str, Value]) -> list[Span]:
    """Return the places of the model: at the top, in the request to count, and in each request of a batch."""
    try:
        return [Span(value.start, value.end, PREFIX) for value in _models(body, fields)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return []


def _models(body: bytes, fields: Mapping[str, Value]) -> Iterator[Value]:
    inner = [fields_of(body, *fields[name]) for name in _INNER if name in fields]
    if "requests" in fields:
        inner += [fields_of(body, *item) for item in items_of(body, *fields["requests"])]
    yield from sorted(values["model"] for values in (fields, *inner) if "model" in values)


GENERATE_CONTENT = NativeOperation(
    name="gemini.generate_content",
    error_events=error_events,
    query=("alt",),
    model_spans=_model_spans,
    response_model=("modelVersion",),
    event_model=("modelVersion",),
    keep_alive=KEEP_ALIVE,
)
COUNT_TOKENS = NativeOperation(name="gemini.count_tokens", error_events=error_events, model_spans=_model_spans)
EMBED_CONTENT = NativeOperation(
    name="gemini.embed_content", error_events=error_events, model_spans=_model_spans, falls_back=False
)
