"""OpenAI's Responses API, for what maps onto a chat."""

from __future__ import annotations

from handler_host.protocols.protocol import ClientProtocol

OPENAI_RESPONSES = ClientProtocol(
    name="openai_responses",
    paths=(("POST", "/v1/responses"), ("POST", "/v1/responses/input_tokens")),
    module="handler_host.protocols.openai_responses.routes",
)
