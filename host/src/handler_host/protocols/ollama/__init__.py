"""Ollama's API: chats, generated text, and the models that are there and in memory."""

from __future__ import annotations

import msgspec

from handler_host.plugin.errors import HostError
from handler_host.protocols.protocol import ClientProtocol

MISSING = "/api/{method:copy|create|embeddings|pull|push}"
"""Ollama's other routes, so that its clients can read the refusal."""


def error_body(error: HostError, request_id: str) -> bytes:
    """Return the JSON of an error in Ollama's format, with the host's code and the request ID beside it."""
    content = {"error": error.message, "code": error.code, "request_id": request_id}
    return msgspec.json.encode(content if error.param is None else {**content, "param": error.param})


OLLAMA = ClientProtocol(
    name="ollama",
    paths=(
        ("POST", "/api/chat"),
        ("POST", "/api/generate"),
        ("POST", "/api/embed"),
        ("GET", "/api/tags"),
        ("POST", "/api/show"),
        ("GET", "/api/ps"),
        ("GET", "/api/version"),
        ("POST", MISSING),
        ("DELETE", "/api/{method:delete}"),
    ),
    module="handler_host.protocols.ollama.routes",
    error_body=error_body,
)
