"""Native operation of OpenAI's Responses API."""

from __future__ import annotations

import msgspec

from handler_host.plugin.errors import HostError
from handler_host.protocols.native_operation import NativeOperation


def _stream_error(error: HostError, request_id: str) -> list[bytes]:
    text = f"{error.message} (request {request_id})"
    details = {"code": error.code, "message": text, "param": error.param}
    data = {"type": "error", "sequence_number": 0, **details, "error": details}
    return [b"event: error\ndata: " + msgspec.json.encode(data) + b"\n\n"]


RESPONSES = NativeOperation(
    name="openai.responses",
    stream_error=_stream_error,
    request_headers=("openai-beta",),
    response_headers=("openai-model", "openai-processing-ms", "openai-version", "x-ratelimit-"),
    event_model=("response", "model"),
)
