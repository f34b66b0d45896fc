"""Routes of OpenAI's API: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/embeddings`` and ``/v1/models``.

A model is a handler, ``handler/model``, or a name of ``[models]``. The types of requests and responses are imported
with the first request.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.responses import json_response
from handler_host.http.sse import DATA
from handler_host.plugin.errors import HostError
from handler_host.protocols.chat_service import ChatService, ListedModel, model_of
from handler_host.protocols.native_calls import NativeCalls
from handler_host.protocols.openai import native

if TYPE_CHECKING:
    from handler_host.chat import types as chat
    from handler_host.protocols.openai.encoder import ChunkEncoder
    from handler_host.protocols.openai.legacy_completions import CompletionEncoder
    from handler_host.protocols.openai.responses import Model

DONE = DATA + b"[DONE]"

_encode = msgspec.json.encode


class OpenAIRoutes:
    """Chat completions, completions of prompts, embeddings and models."""

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
            web.post("/v1/chat/completions", self.complete),
            web.post("/v1/completions", self.complete_prompt),
            web.post("/v1/embeddings", self.embed),
        ]

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        """List all handlers that chat, or may."""
        from handler_host.protocols.openai.responses import ModelList

        return json_response(ModelList(data=[self._model(listed) for listed in self._chats.models()]))

    async def show_model(self, request: web.Request) -> web.StreamResponse:
        """Return one model by ID."""
        return json_response(self._model(self._chats.model(request.match_info["model"])))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Respond to a chat, whole or as a stream."""
        data = await self._bodies.read(request)
        return await self._native.respond(request, native.CHAT, data, self._complete_translated)

    async def _complete_translated(self, request: web.Request, data: bytes) -> web.StreamResponse:
        from handler_host.protocols.openai.encoder import ChunkEncoder
        from handler_host.protocols.openai.requests import decode_chat
        from handler_host.protocols.openai.responses import completion

        policy = self._chats.field_policy(request)
        body, translated = await self._bodies.decode_data(data, lambda body: decode_chat(body, policy(body)))
        completion_id = f"chatcmpl-{request_context.current.get().request_id}"
        created = int(time.time())
        if body.stream:
            encoder = ChunkEncoder(
                completion_id=completion_id,
                created=created,
                model=body.model,
                include_usage=body.include_usage,
                custom=body.custom_tools,
            )
            return await self._chats.stream(request, body.model, translated, ChunkEvents(encoder))
        response = await self._chats.respond(body.model, translated)
        return json_response(
            completion(
                response, completion_id=completion_id, created=created, model=body.model, custom=body.custom_tools
            )
        )

    async def complete_prompt(self, request: web.Request) -> web.StreamResponse:
        """Continue a prompt, as a chat of one turn."""
        from handler_host.protocols.openai.legacy_completions import CompletionEncoder, decode_completion

        policy = self._chats.field_policy(request)
        body, translated = await self._bodies.decode(request, lambda body: decode_completion(body, policy(body)))
        encoder = CompletionEncoder(
            completion_id=f"cmpl-{request_context.current.get().request_id}",
            created=int(time.time()),
            model=body.model,
            include_usage=body.include_usage,
        )
        if body.stream:
            return await self._chats.stream(request, body.model, translated, ChunkEvents(encoder))
        return json_response(encoder.whole(await self._chats.respond(body.model, translated)))

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """Respond with embeddings."""
        data = await self._bodies.read(request)
        return await self._native.respond(request, native.EMBEDDINGS, data, self._embed_translated)

    async def _embed_translated(self, request: web.Request, data: bytes) -> web.StreamResponse:
        from handler_host.protocols.embeddings import check_handler, embed
        from handler_host.protocols.openai.embeddings import decode_embeddings, embedding_list

        if model := model_of(data):
            check_handler(self._chats, model)
        ignored = self._chats.field_policy(request)(data)
        body = await self._bodies.decode_data(data, lambda data: decode_embeddings(data, ignored))
        return json_response(embedding_list(body, await embed(self._chats, body.model, body.to_embed(), ignored)))

    def _model(self, listed: ListedModel) -> Model:
        from handler_host.protocols.openai.responses import model

        return model(listed.name, listed.handler.distribution, self._created, listed.info)


class ChunkEvents:
    """Events of a streamed completion."""

    def __init__(self, encoder: ChunkEncoder | CompletionEncoder) -> None:
        self._encoder = encoder

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the events for one chunk."""
        return [DATA + _encode(data) for data in self._encoder.chunks(chunk)]

    def last(self) -> list[bytes]:
        """Return the last events, with ``[DONE]`` at the end."""
        return [*(DATA + _encode(data) for data in self._encoder.last()), DONE]

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the event for an error."""
        return native.error_events(error, request_id)


def routes(chats: ChatService, bodies: BodyReader) -> list[web.RouteDef]:
    """Return the routes that the protocol declares."""
    return OpenAIRoutes(chats, bodies).routes()
