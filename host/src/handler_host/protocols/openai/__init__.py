"""OpenAI's chat completions and models."""

from __future__ import annotations

from handler_host.protocols.protocol import ClientProtocol

OPENAI = ClientProtocol(
    name="openai",
    paths=(
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{model:.+}"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
    ),
    module="handler_host.protocols.openai.routes",
)
