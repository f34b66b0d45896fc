"""Native operation of OpenAI's Responses API."""

from __future__ import annotations

import msgspec

from handler_host.http.sse import event
from handler_host.plugin.errors import HostError
from handler_host.protocols.openai.native import CHAT


def _error_events(error: HostError, request_id: str) -> list[bytes]:
    text = f"{error.message} (request {request_id})"
    details = {"code": error.code, "message": text, "param": error.param}
    data = {"type": "error", "sequence_number": 0, **details, "error": details}
    return [event(msgspec.json.encode(data), "error")]


RESPONSES = msgspec.structs.replace(
    CHAT, name="openai.responses", error_events=_error_events, event_model=("response", "model")
)
