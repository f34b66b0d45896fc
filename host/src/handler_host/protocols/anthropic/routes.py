"""The routes that clients of Anthropic know: ``/v1/messages`` and ``/v1/messages/count_tokens``.

A model is a handler's name, or ``handler/model``; the rest is the handler's matter.
``GET /v1/models`` is OpenAI's; who sends Anthropic's version header gets it in Anthropic's shape.
What requests and answers are made of is imported with the first of them: a host that
no client of Anthropic asks does not carry it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from multidict import istr

from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.responses import json_response as json_answer
from handler_host.http.sse import event
from handler_host.plugin.errors import HostError, InvalidInput
from handler_host.protocols.chat_service import ChatService
from handler_host.protocols.protocol import Protocol

if TYPE_CHECKING:
    from handler_host.chat import types as chat
    from handler_host.lifecycle.reports import HandlerStatus
    from handler_host.protocols.anthropic.responses import EventEncoder, Model

VERSION_HEADER = "anthropic-version"
"""The header that every client of Anthropic sends, and no other."""
REQUEST_ID = istr("request-id")
"""Where Anthropic's SDKs look for the request's number."""
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's word for the kind of an error, where it is not that of its class of statuses."""


def error_body(error: HostError, request_id: str) -> bytes:
    """Return the JSON of an error in Anthropic's envelope; ``details.error_code`` is the host's own code."""
    details: dict[str, Any] = {"error_code": error.code}
    if error.param is not None:
        details["param"] = error.param
    if error.retry_after is not None:
        details["retry_after"] = round(error.retry_after, 3)
    kind = TYPES.get(error.status) or ("api_error" if error.status >= 500 else "invalid_request_error")
    told = {"type": kind, "message": error.message, "details": details | (error.details or {})}
    return msgspec.json.encode({"type": "error", "error": told, "request_id": request_id})


class AnthropicRoutes:
    """Messages, counts of tokens, and models for who asks as Anthropic's clients do."""

    def __init__(self, chats: ChatService, limits: BodyReader) -> None:
        self._chats = chats
        self._limits = limits
        self._created = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        """Return the routes; those of models are OpenAI's too, and the version header decides."""
        return [
            web.get("/v1/models", self.list_models),
            web.get("/v1/models/{model:.+}", self.show_model),
            web.post("/v1/messages", self.create),
            web.post("/v1/messages/count_tokens", self.count),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat, at once or as a stream."""
        from handler_host.protocols.anthropic.requests import decode_message
        from handler_host.protocols.anthropic.responses import EventEncoder, message

        body, translated = decode_message(await self._limits.json_body(request))
        message_id = f"msg_{request_context.current.get().request_id}"
        try:
            if body.stream:
                events = MessageStream(EventEncoder(message_id=message_id, model=body.model))
                return await self._chats.stream(request, body.model, translated.chat, events)
            response = await self._chats.respond(body.model, translated.chat)
        except InvalidInput as error:
            raise translated.with_client_path(error) from None
        return json_answer(message(response, message_id=message_id, model=body.model))

    async def count(self, request: web.Request) -> web.StreamResponse:
        """Count the tokens of a request, if its handler can."""
        from handler_host.protocols.anthropic.requests import decode_count
        from handler_host.protocols.anthropic.responses import TokenCount

        body, translated = decode_count(await self._limits.json_body(request))
        try:
            count = await self._chats.count(body.model, translated.chat)
        except InvalidInput as error:
            raise translated.with_client_path(error) from None
        return json_answer(TokenCount(input_tokens=count.input_tokens))

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        """All handlers that chat, or of which it is not known yet, on one page."""
        from handler_host.protocols.anthropic.responses import model_page

        return json_answer(model_page([self._model(status, status.name) for status in self._chats.models()]))

    async def show_model(self, request: web.Request) -> web.StreamResponse:
        """One of them."""
        name = request.match_info["model"]
        return json_answer(self._model(self._chats.model(name), name))

    def _model(self, status: HandlerStatus, name: str) -> Model:
        from handler_host.protocols.anthropic.responses import model

        return model(name, status.title or name, self._created)


class MessageStream:
    """The events of a streamed message."""

    def __init__(self, encoder: EventEncoder) -> None:
        self._encoder = encoder

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the events for one chunk."""
        return self._encoder.events(chunk)

    def last(self) -> list[bytes]:
        """Return the last events."""
        return self._encoder.last()

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the error as Anthropic's SDK expects it in a stream, and nothing after it."""
        return [event(error_body(error, request_id), "error")]


ANTHROPIC = Protocol(
    name="anthropic",
    routes=lambda chats, bodies: AnthropicRoutes(chats, bodies).routes(),
    error_body=error_body,
    request_id_header=REQUEST_ID,
    key_headers=("x-api-key",),
    marker_header=VERSION_HEADER,
)
