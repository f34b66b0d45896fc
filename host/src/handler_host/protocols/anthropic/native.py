"""Native operations of Anthropic's API: messages and token counts."""

from __future__ import annotations

from handler_host.plugin.errors import HostError
from handler_host.protocols.anthropic.errors import error_body
from handler_host.protocols.native_operation import NativeOperation

REQUEST_HEADERS = ("anthropic-beta", "anthropic-version")
RESPONSE_HEADERS = ("anthropic-ratelimit-",)


def _stream_error(error: HostError, request_id: str) -> list[bytes]:
    return [b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"]


MESSAGES = NativeOperation(
    name="anthropic.messages",
    stream_error=_stream_error,
    request_headers=REQUEST_HEADERS,
    query=("beta",),
    response_headers=RESPONSE_HEADERS,
    event_model=("message", "model"),
)
COUNT_TOKENS = NativeOperation(
    name="anthropic.count_tokens",
    stream_error=_stream_error,
    request_headers=REQUEST_HEADERS,
    query=("beta",),
    response_headers=RESPONSE_HEADERS,
)
