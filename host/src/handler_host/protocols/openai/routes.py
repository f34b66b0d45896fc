"""The routes that clients of OpenAI know: ``/v1/chat/completions`` and ``/v1/models``.

A model is a handler's name, or ``handler/model``; the rest is the handler's matter.
What requests and answers are made of is imported with the first of them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.errors import error_body
from handler_host.http.responses import json_response as json_answer
from handler_host.http.sse import event
from handler_host.plugin.errors import HostError
from handler_host.protocols.chat_service import ChatService
from handler_host.protocols.protocol import Protocol

if TYPE_CHECKING:
    from handler_host.chat import types as chat
    from handler_host.lifecycle.reports import HandlerStatus
    from handler_host.protocols.openai.responses import ChunkEncoder, Model

DONE = event(b"[DONE]")

_encode = msgspec.json.encode


class OpenAIRoutes:
    """Chat completions and models."""

    def __init__(self, chats: ChatService, limits: BodyReader) -> None:
        self._chats = chats
        self._limits = limits
        self._created = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        """Return them, for the composition root to guard and to add."""
        return [
            web.get("/v1/models", self.list_models),
            web.get("/v1/models/{model:.+}", self.show_model),
            web.post("/v1/chat/completions", self.complete),
        ]

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        """All handlers that chat, or of which it is not known yet."""
        from handler_host.protocols.openai.responses import ModelList

        return json_answer(ModelList(data=[self._model(status, status.name) for status in self._chats.models()]))

    async def show_model(self, request: web.Request) -> web.StreamResponse:
        """One of them."""
        model = request.match_info["model"]
        return json_answer(self._model(self._chats.model(model), model))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat, at once or as a stream."""
        from handler_host.protocols.openai.requests import decode_request
        from handler_host.protocols.openai.responses import ChunkEncoder, completion

        body = decode_request(await self._limits.json_body(request))
        completion_id = f"chatcmpl-{request_context.current.get().request_id}"
        created = int(time.time())
        if body.stream:
            encoder = ChunkEncoder(
                completion_id=completion_id, created=created, model=body.model, include_usage=body.include_usage
            )
            return await self._chats.stream(request, body.model, body.to_chat(), ChunkStream(encoder))
        response = await self._chats.respond(body.model, body.to_chat())
        return json_answer(completion(response, completion_id=completion_id, created=created, model=body.model))

    def _model(self, status: HandlerStatus, name: str) -> Model:
        from handler_host.protocols.openai.responses import Model

        return Model(id=name, created=self._created, owned_by=status.distribution)


class ChunkStream:
    """The events of a streamed chat completion."""

    def __init__(self, encoder: ChunkEncoder) -> None:
        self._encoder = encoder

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the events for one chunk."""
        return [event(_encode(data)) for data in self._encoder.chunks(chunk)]

    def last(self) -> list[bytes]:
        """Return the last events, with ``[DONE]`` at the end."""
        return [*(event(_encode(data)) for data in self._encoder.last()), DONE]

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the error as OpenAI's SDK expects it in a stream; there is no ``[DONE]`` after it."""
        return [event(error_body(error, request_id))]


OPENAI = Protocol(name="openai", routes=lambda chats, bodies: OpenAIRoutes(chats, bodies).routes())
