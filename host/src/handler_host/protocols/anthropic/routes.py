"""Routes of Anthropic's API: ``/v1/messages``, ``/v1/messages/count_tokens`` and ``/v1/models``.

A model is a handler, ``handler/model``, or a name of ``[models]``. ``GET /v1/models`` is OpenAI's route, too: clients
that send Anthropic's version header get its shape. The types of requests and responses are imported with the first
request, because a host without clients of Anthropic does not need them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from multidict import istr

from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.responses import json_response
from handler_host.http.sse import event
from handler_host.plugin.errors import HostError
from handler_host.protocols.chat_service import ChatService, ListedModel
from handler_host.protocols.protocol import Protocol

if TYPE_CHECKING:
    from handler_host.chat import types as chat
    from handler_host.protocols.anthropic.responses import EventEncoder, Model

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's type of an error, where it is not that of its class of statuses."""


def error_body(error: HostError, request_id: str) -> bytes:
    """Return the JSON of an error in Anthropic's format; ``details.error_code`` is the host's own code."""
    details: dict[str, Any] = {"error_code": error.code}
    if error.param is not None:
        details["param"] = error.param
    if error.retry_after is not None:
        details["retry_after"] = round(error.retry_after, 3)
    error_type = ERROR_TYPES.get(error.status) or ("api_error" if error.status >= 500 else "invalid_request_error")
    content = {"type": error_type, "message": error.message, "details": details | (error.details or {})}
    return msgspec.json.encode({"type": "error", "error": content, "request_id": request_id})


class AnthropicRoutes:
    """Messages, token counts and models."""

    def __init__(self, chats: ChatService, bodies: BodyReader) -> None:
        self._chats = chats
        self._bodies = bodies
        self._created = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/models", self.list_models),
            web.get("/v1/models/{model:.+}", self.show_model),
            web.post("/v1/messages", self.create),
            web.post("/v1/messages/count_tokens", self.count),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Respond to a chat, whole or as a stream."""
        from handler_host.protocols.anthropic.requests import decode_message
        from handler_host.protocols.anthropic.responses import EventEncoder, message

        policy = self._chats.field_policy(request)
        body, translated = await self._bodies.decode(request, lambda data: decode_message(data, policy(data)))
        message_id = f"msg_{request_context.current.get().request_id}"
        if body.stream:
            events = MessageStream(EventEncoder(message_id=message_id, model=body.model))
            return await self._chats.stream(request, body.model, translated, events)
        response = await self._chats.respond(body.model, translated)
        return json_response(message(response, message_id=message_id, model=body.model))

    async def count(self, request: web.Request) -> web.StreamResponse:
        """Count the tokens of a request, if its handler can."""
        from handler_host.protocols.anthropic.requests import decode_count
        from handler_host.protocols.anthropic.responses import TokenCount

        policy = self._chats.field_policy(request)
        body, translated = await self._bodies.decode(request, lambda data: decode_count(data, policy(data)))
        count = await self._chats.count(body.model, translated)
        return json_response(TokenCount(input_tokens=count.input_tokens))

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        """List all handlers that chat, or may, on one page."""
        from handler_host.protocols.anthropic.responses import model_page

        return json_response(model_page([self._model(listed) for listed in self._chats.models()]))

    async def show_model(self, request: web.Request) -> web.StreamResponse:
        """Return one model by ID."""
        return json_response(self._model(self._chats.model(request.match_info["model"])))

    def _model(self, listed: ListedModel) -> Model:
        from handler_host.protocols.anthropic.responses import model

        return model(listed.name, listed.title, self._created, listed.info)


class MessageStream:
    """Events of a streamed message."""

    def __init__(self, encoder: EventEncoder) -> None:
        self._encoder = encoder

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the events for one chunk."""
        return self._encoder.events(chunk)

    def last(self) -> list[bytes]:
        """Return the last events."""
        return self._encoder.last()

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the error event that Anthropic's SDK expects; no event follows it."""
        return [event(error_body(error, request_id), "error")]


ANTHROPIC = Protocol(
    name="anthropic",
    routes=lambda chats, bodies: AnthropicRoutes(chats, bodies).routes(),
    error_body=error_body,
    request_id_header=istr("request-id"),
    key_headers=("x-api-key",),
    marker_header="anthropic-version",
)
