"""Routes of Anthropic's API: ``/v1/messages``, ``/v1/messages/count_tokens`` and ``/v1/models``.

A model is a handler, ``handler/model``, or a name of ``[models]``. ``GET /v1/models`` is OpenAI's route, too: clients
that send Anthropic's version header get its shape. The types of requests and responses are imported with the first
request, because a host without clients of Anthropic does not need them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiohttp import web

from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.responses import json_response
from handler_host.protocols.anthropic import native
from handler_host.protocols.chat_service import ChatService, ListedModel
from handler_host.protocols.native_calls import NativeCalls

if TYPE_CHECKING:
    from handler_host.protocols.anthropic.responses import Model


class AnthropicRoutes:
    """Messages, token counts and models."""

    def __init__(self, chats: ChatService, bodies: BodyReader) -> None:
        self._chats = chats
        self._native = NativeCalls(chats, bodies)
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
        data = await self._bodies.read(request)
        return await self._native.respond(request, native.MESSAGES, data, self._create_translated)

    async def _create_translated(self, request: web.Request, data: bytes) -> web.StreamResponse:
        from handler_host.protocols.anthropic.encoder import EventEncoder
        from handler_host.protocols.anthropic.requests import decode_message
        from handler_host.protocols.anthropic.responses import message

        policy = self._chats.field_policy(request)
        body, translated = await self._bodies.decode_data(data, lambda body: decode_message(body, policy(body)))
        message_id = f"msg_{request_context.current.get().request_id}"
        if body.stream:
            events = EventEncoder(message_id=message_id, model=body.model)
            return await self._chats.stream(request, body.model, translated, events)
        response = await self._chats.respond(body.model, translated)
        return json_response(message(response, message_id=message_id, model=body.model))

    async def count(self, request: web.Request) -> web.StreamResponse:
        """Count the tokens of a request, if its handler can."""
        data = await self._bodies.read(request)
        return await self._native.respond(request, native.COUNT_TOKENS, data, self._count_translated)

    async def _count_translated(self, request: web.Request, data: bytes) -> web.StreamResponse:
        from handler_host.protocols.anthropic.requests import decode_count
        from handler_host.protocols.anthropic.responses import TokenCount

        policy = self._chats.field_policy(request)
        body, translated = await self._bodies.decode_data(data, lambda body: decode_count(body, policy(body)))
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


def routes(chats: ChatService, bodies: BodyReader) -> list[web.RouteDef]:
    """Return the routes that the protocol declares."""
    return AnthropicRoutes(chats, bodies).routes()
