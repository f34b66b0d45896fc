"""The routes that clients of Gemini know: ``/v1beta/models`` and ``:generateContent``.

A model is a handler's name, or ``handler/model``; the rest is the handler's matter.
What requests and answers are made of is imported with the first of them: a host that
no client of Gemini asks does not carry it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec
from aiohttp import web

from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.responses import json_response as json_answer
from handler_host.http.sse import SseResponse, event
from handler_host.plugin.errors import HostError, InvalidInput, NotFound
from handler_host.protocols.chat_service import ChatService
from handler_host.protocols.protocol import Protocol

if TYPE_CHECKING:
    from handler_host.chat import types as chat
    from handler_host.protocols.gemini.responses import ChunkEncoder

VERSIONS = ("v1beta", "v1")
"""Under both: google-genai asks ``v1`` where it is not told otherwise."""
METHODS = ["generateContent", "streamGenerateContent", "countTokens"]

_encode = msgspec.json.encode


def error_body(error: HostError, request_id: str) -> bytes:
    """Return the JSON of an error in Google's envelope."""
    from handler_host.protocols.gemini.responses import error_body as made

    return made(error, request_id)


class GeminiRoutes:
    """Generate content, at once and streamed; count tokens; and models."""

    def __init__(self, chats: ChatService, limits: BodyReader) -> None:
        self._chats = chats
        self._limits = limits

    def routes(self) -> list[web.RouteDef]:
        """Return them, for the composition root to guard and to add."""
        generating = [
            route
            for version in VERSIONS
            for route in (
                web.post(f"/{version}/models/{{model:.+}}:generateContent", self.generate),
                web.post(f"/{version}/models/{{model:.+}}:streamGenerateContent", self.generate_streamed),
                web.post(f"/{version}/models/{{model:.+}}:countTokens", self.count),
                web.post(f"/{version}/models/{{model:.+}}:{{method}}", self.refuse),
            )
        ]
        return [
            *generating,
            web.get("/v1beta/models", self.list_models),
            web.get("/v1beta/models/{model:.+}", self.show_model),
        ]

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        """All handlers that chat, or of which it is not known yet, on one page."""
        from handler_host.protocols.gemini.responses import ModelList, model

        return json_answer(ModelList(models=[model(status, status.name, METHODS) for status in self._chats.models()]))

    async def show_model(self, request: web.Request) -> web.StreamResponse:
        """One of them."""
        from handler_host.protocols.gemini.responses import model

        name = _model(request)
        return json_answer(model(self._chats.model(name), name, METHODS))

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat at once."""
        from handler_host.protocols.gemini.requests import decode_request
        from handler_host.protocols.gemini.responses import response

        model = _model(request)
        translated = decode_request(await self._limits.json_body(request)).to_chat(model)
        try:
            whole = await self._chats.respond(model, translated.chat)
        except InvalidInput as error:
            raise translated.with_client_path(error) from None
        return json_answer(response(whole, response_id=request_context.current.get().request_id, model=model))

    async def generate_streamed(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat as a stream: events with ``alt=sse``, else one JSON array, bit by bit."""
        from handler_host.protocols.gemini.requests import decode_request
        from handler_host.protocols.gemini.responses import ChunkEncoder

        model = _model(request)
        translated = decode_request(await self._limits.json_body(request)).to_chat(model)
        encoder = ChunkEncoder(response_id=request_context.current.get().request_id, model=model)
        try:
            if request.query.get("alt") == "sse":
                return await self._chats.stream(request, model, translated.chat, Events(encoder))
            return await self._chats.stream(request, model, translated.chat, Elements(encoder), JsonArray)
        except InvalidInput as error:
            raise translated.with_client_path(error) from None

    async def count(self, request: web.Request) -> web.StreamResponse:
        """Count the tokens of a request, if its handler can."""
        from handler_host.protocols.gemini.requests import decode_count
        from handler_host.protocols.gemini.responses import CountTokensResponse

        model = _model(request)
        translated = decode_count(await self._limits.json_body(request)).to_chat(model)
        try:
            count = await self._chats.count(model, translated.chat)
        except InvalidInput as error:
            raise translated.with_client_path(error) from None
        return json_answer(CountTokensResponse(total_tokens=count.input_tokens))

    async def refuse(self, request: web.Request) -> web.StreamResponse:
        """Say that another method of a model (embedContent, predict, ...) is not there."""
        method = request.match_info["method"]
        raise NotFound(f"there is no method {method!r} of models here; there are {', '.join(METHODS)}")


def _model(request: web.Request) -> str:
    model = request.match_info["model"]
    if not model.partition("/")[0] or model.endswith("/"):
        raise InvalidInput(f"model {model!r} has to be HANDLER or HANDLER/MODEL", param="model")
    return model


class Events:
    """A stream as server-sent events."""

    def __init__(self, encoder: ChunkEncoder) -> None:
        self._encoder = encoder

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the events for one chunk."""
        return [event(_encode(data)) for data in self._encoder.chunks(chunk)]

    def last(self) -> list[bytes]:
        """Return the last chunk; nothing follows it."""
        return [event(_encode(self._encoder.last()))]

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the error as google-genai expects it in a stream."""
        return [event(error_body(error, request_id))]


class Elements:
    """A stream as the elements of one array."""

    def __init__(self, encoder: ChunkEncoder) -> None:
        self._encoder = encoder
        self._begun = False

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the elements for one chunk."""
        return [self._element(_encode(data)) for data in self._encoder.chunks(chunk)]

    def last(self) -> list[bytes]:
        """Return the last chunk, and the end of the array."""
        return [self._element(_encode(self._encoder.last())), b"]"]

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the error as an element; the array stays open, as google-generativeai reads over such an element."""
        return [self._element(error_body(error, request_id))]

    def _element(self, data: bytes) -> bytes:
        before, self._begun = b"," if self._begun else b"", True
        return before + data


class JsonArray(SseResponse):
    """One JSON array to one client, each element as soon as it is there."""

    content_type = "application/json; charset=utf-8"
    separator = b""
    comment = b"\n"

    async def __aenter__(self) -> Self:
        """Send the head, and the beginning of the array: nothing may stand before it, not even white space."""
        await super().__aenter__()
        await self.send_events([b"["])
        return self


GEMINI = Protocol(
    name="gemini",
    routes=lambda chats, bodies: GeminiRoutes(chats, bodies).routes(),
    error_body=error_body,
    key_headers=("x-goog-api-key",),
    key_parameter="key",
)
