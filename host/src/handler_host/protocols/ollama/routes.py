"""Routes of Ollama's API under ``/api``: chat, generate, embed, tags, show, ps and version.

A model is a handler, ``handler/model``, or a name of ``[models]``, with or without the tag ``:latest``. A request's
``keep_alive`` sets the handler's idle time. The types of requests and responses are imported with the first request,
because a host without clients of Ollama does not need them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.responses import json_response
from handler_host.http.sse import SseResponse
from handler_host.plugin.errors import HostError, NotFound
from handler_host.protocols.chat_service import ChatService, model_of
from handler_host.protocols.ollama import MISSING, error_body

if TYPE_CHECKING:
    from handler_host.chat import types as chat
    from handler_host.protocols.fields import IgnoredFields
    from handler_host.protocols.ollama.requests import ChatBody, GenerateBody
    from handler_host.protocols.ollama.responses import ChunkEncoder

API_VERSION = "0.13.0"
"""Version of Ollama whose API the routes follow; clients require a minimum."""

LOADED = frozenset({"active", "draining", "idle"})
"""States of a handler in memory; its process ID is not shown to consumers."""

_encode = msgspec.json.encode


class OllamaRoutes:
    """Chats, generated text and models."""

    def __init__(self, chats: ChatService, bodies: BodyReader) -> None:
        self._chats = chats
        self._bodies = bodies
        self._started = datetime.now(UTC)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.post("/api/chat", self.chat),
            web.post("/api/generate", self.generate),
            web.post("/api/embed", self.embed),
            web.get("/api/tags", self.list_models),
            web.post("/api/show", self.show_model),
            web.get("/api/ps", self.list_running),
            web.get("/api/version", self.version),
            web.post(MISSING, self.refuse),
            web.delete("/api/{method:delete}", self.refuse),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Respond to a chat, as a stream of lines or whole."""
        from handler_host.protocols.ollama.requests import decode_chat

        return await self._respond(request, decode_chat, is_chat=True)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Continue a prompt, as a chat of one turn."""
        from handler_host.protocols.ollama.requests import decode_generate

        return await self._respond(request, decode_generate, is_chat=False)

    async def _respond(
        self,
        request: web.Request,
        decode: Callable[[bytes, IgnoredFields], ChatBody | GenerateBody],
        *,
        is_chat: bool,
    ) -> web.StreamResponse:
        from handler_host.protocols.ollama.responses import ChunkEncoder, loaded

        data = await self._bodies.read(request, any_media_type=True)
        model = self._name(await self._bodies.decode_data(data, model_of))
        ignored = self._chats.field_policy(request, model)(data)
        body = await self._bodies.decode_data(data, lambda data: decode(data, ignored))
        keep_alive_s = body.keep_alive_s
        if body.is_empty:
            is_unload = keep_alive_s == 0
            await self._chats.set_loaded(model, loaded=not is_unload, keep_alive_s=keep_alive_s)
            return json_response(loaded(body.model, is_chat=is_chat, reason="unload" if is_unload else "load"))
        # Where the body was decoded: the translation of many values takes as long.
        translated = await self._bodies.decode_data(data, lambda _: body.to_chat(ignored))
        self._chats.set_keep_alive(model, keep_alive_s)
        context = request_context.current.get()
        encoder = ChunkEncoder(body.model, is_chat=is_chat, load_s=lambda: context.activate_s or 0.0)
        if body.is_stream:
            return await self._chats.stream(request, model, translated, Lines(encoder), JsonLines)
        return json_response(encoder.whole(await self._chats.respond(model, translated)))

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """Respond with embeddings."""
        from handler_host.protocols.embeddings import embed
        from handler_host.protocols.ollama.embeddings import decode_embed, embeddings

        data = await self._bodies.read(request, any_media_type=True)
        model = self._name(await self._bodies.decode_data(data, model_of))
        ignored = self._chats.field_policy(request, model)(data)
        body = await self._bodies.decode_data(data, lambda data: decode_embed(data, ignored))
        self._chats.set_keep_alive(model, body.keep_alive_s)
        started = time.monotonic()
        response = await embed(self._chats, model, body.to_embed(), ignored)
        load_s = request_context.current.get().activate_s or 0.0
        return json_response(embeddings(body.model, response, total_s=time.monotonic() - started, load_s=load_s))

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        """List all handlers that chat, or may."""
        from handler_host.protocols.ollama.responses import tag

        return json_response({"models": [tag(listed, self._started) for listed in self._chats.models()]})

    async def list_running(self, request: web.Request) -> web.StreamResponse:
        """List the handlers in memory, and when each is unloaded without a further request."""
        from handler_host.protocols.ollama.responses import running

        now = datetime.now(UTC)
        models = [listed for listed in self._chats.models() if listed.name == listed.handler.name]
        return json_response({"models": [running(listed, now) for listed in models if listed.handler.state in LOADED]})

    async def show_model(self, request: web.Request) -> web.StreamResponse:
        """Return the facts about one model."""
        from handler_host.protocols.ollama.requests import decode_model
        from handler_host.protocols.ollama.responses import details

        name = decode_model(await self._bodies.read(request, any_media_type=True)).requested
        return json_response(details(self._chats.model(self._name(name)), self._started))

    async def version(self, request: web.Request) -> web.StreamResponse:
        """Return the version of Ollama's API that the host follows."""
        return json_response({"version": API_VERSION})

    async def refuse(self, request: web.Request) -> web.StreamResponse:
        """Refuse Ollama's other routes, most of which manage files of models."""
        method = request.match_info["method"]
        raise NotFound(f"/api/{method} is not supported; use /api/chat, generate, embed, tags, show, ps or version")

    def _name(self, requested: str) -> str:
        """Return a model's name without the tag that clients add, unless ``[models]`` has it with the tag."""
        from handler_host.protocols.ollama.requests import LATEST

        return requested if self._chats.has_alias(requested) else requested.removesuffix(LATEST)


class Lines:
    """Stream as lines of JSON."""

    def __init__(self, encoder: ChunkEncoder) -> None:
        self._encoder = encoder

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the lines for one chunk."""
        return [_encode(line) for line in self._encoder.chunks(chunk)]

    def last(self) -> list[bytes]:
        """Return the last lines."""
        return [_encode(line) for line in self._encoder.last()]

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the error as a line, as Ollama's clients expect it."""
        return [error_body(error, request_id)]


class JsonLines(SseResponse):
    """Response as lines of JSON, each sent as it arrives."""

    content_type = "application/x-ndjson"
    separator = b"\n"
    comment = b" "
    """White space before the next line; some clients fail on an empty line."""


def routes(chats: ChatService, bodies: BodyReader) -> list[web.RouteDef]:
    """Return the routes that the protocol declares."""
    return OllamaRoutes(chats, bodies).routes()
