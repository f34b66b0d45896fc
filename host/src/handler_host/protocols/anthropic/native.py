"""Native operations of Anthropic's API: messages and token counts."""

from __future__ import annotations

from handler_host.protocols.anthropic.errors import error_events
from handler_host.protocols.native_operation import NativeOperation

REQUEST_HEADERS = ("anthropic-beta", "anthropic-version")
RESPONSE_HEADERS = ("anthropic-ratelimit-",)


MESSAGES = NativeOperation(
    name="anthropic.messages",
    error_events=error_events,
    request_headers=REQUEST_HEADERS,
    query=("beta",),
    response_headers=RESPONSE_HEADERS,
    event_model=("message", "model"),
)
COUNT_TOKENS = NativeOperation(
    name="anthropic.count_tokens",
    error_events=error_events,
    request_headers=REQUEST_HEADERS,
    query=("beta",),
    response_headers=RESPONSE_HEADERS,
)
