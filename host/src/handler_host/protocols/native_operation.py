"""Declaration of a native operation: everything that the host needs to pass a protocol's requests on, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from handler_host.channel.native_messages import Span
from handler_host.http.sse import KEEP_ALIVE
from handler_host.plugin.errors import HostError
from handler_host.protocols.json_fields import Value

ErrorEvents = Callable[[HostError, str], list[bytes]]
"""Returns the events for an error after the status, as :func:`handler_host.http.sse.event` makes them.

The second argument is the request ID.
"""

COMMON_RESPONSE_HEADERS = ("content-type", "retry-after", "retry-after-ms", "x-should-retry")
"""Response headers that every protocol passes on."""
REQUEST_ID_HEADERS = ("x-request-id", "request-id")
"""Provider's headers with its own request ID; clients get it as ``X-Provider-Request-ID``."""


def top_model(body: bytes, fields: Mapping[str, Value]) -> list[Span]:
    """Return the place of the field ``model``."""
    value = fields.get("model")
    return [] if value is None else [Span(value.start, value.end)]


class NativeOperation(msgspec.Struct, frozen=True, kw_only=True):
    """Native operation of a protocol."""

    name: str
    """As handlers declare it, such as ``openai.chat``."""
    error_events: ErrorEvents
    keep_alive: bytes = KEEP_ALIVE
    """Comment that breaks a long silence of an event stream."""
    request_headers: tuple[str, ...] = ()
    """Headers of features, in lower case, that go along to the provider."""
    model_spans: Callable[[bytes, Mapping[str, Value]], list[Span]] = top_model
    """Returns the places of the model's name in a body, whose fields are given."""
    query: tuple[str, ...] = ()
    """Query parameters of features that go along to the provider."""
    response_headers: tuple[str, ...] = ()
    """Response headers, in lower case, that come back."""
    response_header_starts: tuple[str, ...] = ()
    """Starts of the names of further response headers that come back."""
    response_model: tuple[str, ...] = ("model",)
    """Path to the model's name in a whole response."""
    falls_back: bool = True
    """Whether the fallbacks of a handler may respond; vectors of another model cannot be compared with its own."""
    has_usage_on_request: bool = False
    """Whether a stream reports its tokens only if ``stream_options`` of the request ask for them."""
    event_model: tuple[str, ...] = ("model",)
    """Path to the model's name in an event of a stream."""

    def passes_back(self, header: str) -> bool:
        """Return whether the response header goes back to the client."""
        is_named = header in COMMON_RESPONSE_HEADERS or header in self.response_headers
        return is_named or header.startswith(self.response_header_starts)
