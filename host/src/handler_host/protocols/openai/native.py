"""Native operations of OpenAI's API: chat completions and embeddings."""

from __future__ import annotations

import msgspec

from handler_host.http.errors import error_body
from handler_host.http.sse import event
from handler_host.plugin.errors import HostError
from handler_host.protocols.native_operation import NativeOperation


def error_events(error: HostError, request_id: str) -> list[bytes]:
    """Return the event that OpenAI's SDK expects for an error in a stream; no ``[DONE]`` follows it."""
    return [event(error_body(error, request_id))]


CHAT = NativeOperation(
    name="openai.chat",
    error_events=error_events,
    has_usage_on_request=True,
    request_headers=("openai-beta",),
    response_headers=("openai-model", "openai-processing-ms", "openai-version"),
    response_header_starts=("x-ratelimit-",),
)
EMBEDDINGS = msgspec.structs.replace(CHAT, name="openai.embeddings", has_usage_on_request=False, falls_back=False)
