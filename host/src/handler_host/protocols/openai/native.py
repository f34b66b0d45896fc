"""Native operations of OpenAI's API: chat completions and embeddings."""

from __future__ import annotations

from handler_host.http.errors import error_body
from handler_host.plugin.errors import HostError
from handler_host.protocols.native_operation import NativeOperation

REQUEST_HEADERS = ("openai-beta",)
RESPONSE_HEADERS = ("openai-model", "openai-processing-ms", "openai-version", "x-ratelimit-")


def _stream_error(error: HostError, request_id: str) -> list[bytes]:
    return [b"data: " + error_body(error, request_id) + b"\n\n"]


CHAT = NativeOperation(
    name="openai.chat",
    stream_error=_stream_error,
    request_headers=REQUEST_HEADERS,
    response_headers=RESPONSE_HEADERS,
)
EMBEDDINGS = NativeOperation(
    name="openai.embeddings",
    stream_error=_stream_error,
    request_headers=REQUEST_HEADERS,
    response_headers=RESPONSE_HEADERS,
)
