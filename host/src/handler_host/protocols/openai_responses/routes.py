"""Routes of OpenAI's Responses API: ``POST /v1/responses``, for requests that map onto a chat, and its token count."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.responses import json_response
from handler_host.http.sse import event
from handler_host.plugin.errors import HostError
from handler_host.protocols.chat_service import ChatService
from handler_host.protocols.native_calls import NativeCalls
from handler_host.protocols.openai_responses import native

if TYPE_CHECKING:
    from handler_host.chat import types as chat
    from handler_host.protocols.openai_responses.encoder import Event, ResponseEncoder

CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""OpenAI's code of an error that ends a stream, where it is not ``server_error``."""

OWN_CODES = frozenset({"context_length_exceeded"})
"""Codes of the host that are OpenAI's, too: clients act on them."""

_encode = msgspec.json.encode


class ResponsesRoutes:
    """Responses, which are not stored."""

    def __init__(self, chats: ChatService, bodies: BodyReader) -> None:
        self._chats = chats
        self._native = NativeCalls(chats, bodies)
        self._bodies = bodies

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.post("/v1/responses", self.respond),
            web.post("/v1/responses/input_tokens", self.count),
        ]

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Respond to a request, whole or as a stream."""
        data = await self._bodies.read(request)
        return await self._native.respond(request, native.RESPONSES, data, self._respond_translated)

    async def count(self, request: web.Request) -> web.StreamResponse:
        """Count the tokens of a request, if its handler can."""
        from handler_host.protocols.openai_responses.requests import decode_chat

        policy = self._chats.field_policy(request)
        data = await self._bodies.read(request)
        body, translated = await self._bodies.decode_data(data, lambda body: decode_chat(body, policy(body)))
        count = await self._chats.count(body.model, translated)
        return json_response({"object": "response.input_tokens", "input_tokens": count.input_tokens})

    async def _respond_translated(self, request: web.Request, data: bytes) -> web.StreamResponse:
        # A host without such clients does not need these types.
        from handler_host.protocols.openai_responses.encoder import ResponseEncoder
        from handler_host.protocols.openai_responses.requests import decode_chat

        policy = self._chats.field_policy(request)
        body, translated = await self._bodies.decode_data(data, lambda body: decode_chat(body, policy(body)))
        encoder = ResponseEncoder(
            request_id=request_context.current.get().request_id, created=int(time.time()), request=body
        )
        if body.stream:
            return await self._chats.stream(request, body.model, translated, ResponseEvents(encoder))
        response = await self._chats.respond(body.model, translated)
        return json_response(encoder.whole(response))


class ResponseEvents:
    """Events of a streamed response."""

    def __init__(self, encoder: ResponseEncoder) -> None:
        self._encoder = encoder

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the events for one chunk."""
        return _encoded(self._encoder.events(chunk))

    def last(self) -> list[bytes]:
        """Return the last events: the end of each item, and ``response.completed`` or ``response.incomplete``."""
        return _encoded(self._encoder.last())

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return ``response.failed``."""
        code = error.code if error.code in OWN_CODES else CODES.get(error.status, "server_error")
        return _encoded(self._encoder.failed(code, f"{error.message} ({error.code}, request {request_id})"))


def _encoded(events: list[Event]) -> list[bytes]:
    return [event(_encode(data), name) for name, data in events]


def routes(chats: ChatService, bodies: BodyReader) -> list[web.RouteDef]:
    """Return the routes that the protocol declares."""
    return ResponsesRoutes(chats, bodies).routes()
