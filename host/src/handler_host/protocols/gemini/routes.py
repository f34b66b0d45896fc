"""Routes of Gemini's API: ``/v1beta/models``, ``:generateContent``, ``:streamGenerateContent`` and ``:countTokens``.

A model is a handler, ``handler/model``, or a name of ``[models]``. ``GET /v1/models`` is OpenAI's route, too: clients
that send Google's client header get Google's shape. The types of requests and responses are imported with the first
request, because a host without clients of Gemini does not need them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import msgspec
from aiohttp import web

from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.responses import json_response
from handler_host.http.sse import DATA, SseResponse
from handler_host.plugin.errors import HostError, InvalidInput, NotFound
from handler_host.protocols.chat_service import COUNT_TOKENS, ChatService, ListedModel
from handler_host.protocols.gemini import KEEP_ALIVE, VERSIONS
from handler_host.protocols.gemini.errors import error_body, error_events
from handler_host.protocols.native_calls import NativeCalls

if TYPE_CHECKING:
    from handler_host.chat import types as chat
    from handler_host.protocols.fields import IgnoredFields
    from handler_host.protocols.gemini.encoder import ChunkEncoder
    from handler_host.protocols.gemini.requests import GenerateContentRequest
    from handler_host.protocols.gemini.responses import Model
    from handler_host.protocols.translated_request import TranslatedRequest

GENERATE = ["generateContent", "streamGenerateContent"]
COUNT = "countTokens"
BATCH_EMBED = "batchEmbedContents"
METHODS = [*GENERATE, COUNT]

_encode = msgspec.json.encode


class GeminiRoutes:
    """Generated content (whole or streamed), token counts and models."""

    def __init__(self, chats: ChatService, bodies: BodyReader) -> None:
        self._chats = chats
        self._native = NativeCalls(chats, bodies)
        self._bodies = bodies

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        generating = [
            route
            for version in VERSIONS
            for route in (
                web.post(f"/{version}/models/{{model:.+}}:generateContent", self.generate),
                web.post(f"/{version}/models/{{model:.+}}:streamGenerateContent", self.generate_streamed),
                web.post(f"/{version}/models/{{model:.+}}:countTokens", self.count),
                web.post(f"/{version}/models/{{model:.+}}:embedContent", self.embed),
                web.post(f"/{version}/models/{{model:.+}}:batchEmbedContents", self.embed),
                web.post(f"/{version}/models/{{model:.+}}:{{method:[A-Za-z]+}}", self.refuse),
            )
        ]
        return [
            *generating,
            web.post("/v1beta/{model:.+}:generateContent", self.generate),
            web.post("/v1beta/{model:.+}:streamGenerateContent", self.generate_streamed),
            *(web.get(f"/{version}/models", self.list_models) for version in VERSIONS),
            *(web.get(f"/{version}/models/{{model:.+}}", self.show_model) for version in VERSIONS),
        ]

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        """List all handlers that chat, or may, on one page."""
        from handler_host.protocols.gemini.responses import ModelList

        return json_response(ModelList(models=[_describe(listed) for listed in self._chats.models()]))

    async def show_model(self, request: web.Request) -> web.StreamResponse:
        """Return one model by ID."""
        return json_response(_describe(self._chats.model(_model(request))))

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Respond to a chat."""
        from handler_host.protocols.gemini import native

        data, model = await self._bodies.read(request), _model(request)
        return await self._native.respond(
            request, native.GENERATE_CONTENT, data, self._generate_translated, model=model, stream=False
        )

    async def _generate_translated(self, request: web.Request, data: bytes) -> web.StreamResponse:
        from handler_host.protocols.gemini.encoder import response
        from handler_host.protocols.gemini.enum_format import is_enum
        from handler_host.protocols.gemini.requests import decode_request

        model = _model(request)
        translated = await self._translate(request, data, decode_request, model)
        whole = await self._chats.respond(model, translated)
        response_id, enum = request_context.current.get().request_id, is_enum(translated.chat)
        return json_response(response(whole, response_id=response_id, model=model, is_enum=enum))

    async def generate_streamed(self, request: web.Request) -> web.StreamResponse:
        """Respond to a chat as a stream: events with ``alt=sse``, else the elements of one JSON array."""
        from handler_host.protocols.gemini import native

        data, model = await self._bodies.read(request), _model(request)
        return await self._native.respond(
            request,
            native.GENERATE_CONTENT,
            data,
            self._generate_streamed_translated,
            model=model,
            stream=True,
            method="streamGenerateContent",
        )

    async def _generate_streamed_translated(self, request: web.Request, data: bytes) -> web.StreamResponse:
        from handler_host.protocols.gemini.encoder import ChunkEncoder
        from handler_host.protocols.gemini.enum_format import is_enum
        from handler_host.protocols.gemini.requests import decode_request

        model = _model(request)
        translated = await self._translate(request, data, decode_request, model)
        response_id, enum = request_context.current.get().request_id, is_enum(translated.chat)
        encoder = ChunkEncoder(response_id=response_id, model=model, is_enum=enum)
        if request.query.get("alt") == "sse":
            return await self._chats.stream(request, model, translated, Events(encoder), EventStream)
        return await self._chats.stream(request, model, translated, Elements(encoder), JsonArray)

    async def count(self, request: web.Request) -> web.StreamResponse:
        """Count the tokens of a request, if its handler can."""
        from handler_host.protocols.gemini import native

        data, model = await self._bodies.read(request), _model(request)
        return await self._native.respond(
            request, native.COUNT_TOKENS, data, self._count_translated, model=model, stream=False
        )

    async def _count_translated(self, request: web.Request, data: bytes) -> web.StreamResponse:
        from handler_host.protocols.gemini.requests import decode_count
        from handler_host.protocols.gemini.responses import CountTokensResponse

        model = _model(request)
        translated = await self._translate(request, data, decode_count, model)
        count = await self._chats.count(model, translated)
        return json_response(CountTokensResponse(total_tokens=count.input_tokens))

    async def _translate(
        self,
        request: web.Request,
        data: bytes,
        decode: Callable[[bytes, IgnoredFields], GenerateContentRequest],
        model: str,
    ) -> TranslatedRequest:
        """Return the translation of a body."""
        policy = self._chats.field_policy(request, model)

        def translate(data: bytes) -> TranslatedRequest:
            ignored = policy(data)
            return decode(data, ignored).to_chat(model, ignored)

        return await self._bodies.decode_data(data, translate)

    async def embed(self, request: web.Request) -> web.StreamResponse:
        """Respond with embeddings, of one content or of a batch."""
        from handler_host.protocols.gemini import native

        data, model = await self._bodies.read(request), _model(request)
        return await self._native.respond(
            request,
            native.EMBED_CONTENT,
            data,
            self._embed_translated,
            model=model,
            stream=False,
            method=_method(request),
        )

    async def _embed_translated(self, request: web.Request, data: bytes) -> web.StreamResponse:
        from handler_host.protocols.embeddings import check_handler, embed
        from handler_host.protocols.gemini.embeddings import decode_batch, decode_embedding, embedding_response

        model, is_batch = _model(request), _method(request) == BATCH_EMBED
        check_handler(self._chats, model)
        decode = decode_batch if is_batch else decode_embedding
        ignored = self._chats.field_policy(request, model)(data)
        body = await self._bodies.decode_data(data, lambda data: decode(data, ignored))
        return json_response(embedding_response(await embed(self._chats, model, body, ignored), is_batch=is_batch))

    async def refuse(self, request: web.Request) -> web.StreamResponse:
        """Refuse the other methods of models (``predict`` …)."""
        method = request.match_info["method"]
        raise NotFound(f"unknown method {method!r} of models; there are: {', '.join(METHODS)}")


def _describe(listed: ListedModel) -> Model:
    from handler_host.protocols.gemini.responses import model

    methods = METHODS if listed.has_operation(COUNT_TOKENS) else GENERATE
    return model(listed.handler, listed.name, listed.title, methods, listed.info)


def _method(request: web.Request) -> str:
    return request.path.rpartition(":")[2]


def _model(request: web.Request) -> str:
    model = request.match_info["model"]
    if not model.partition("/")[0] or model.endswith("/"):
        raise InvalidInput(f"model {model!r} must be HANDLER or HANDLER/MODEL", param="model")
    return model


class Events:
    """Stream as server-sent events."""

    def __init__(self, encoder: ChunkEncoder) -> None:
        self._encoder = encoder

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the events for one chunk."""
        return [DATA + _encode(data) for data in self._encoder.chunks(chunk)]

    def last(self) -> list[bytes]:
        """Return the last event."""
        return [DATA + _encode(self._encoder.last())]

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the error in the two forms that Google's SDKs expect."""
        return error_events(error, request_id)


class Elements:
    """Stream as the elements of one array."""

    def __init__(self, encoder: ChunkEncoder) -> None:
        self._encoder = encoder
        self._has_elements = False

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the elements for one chunk."""
        return [self._element(_encode(data)) for data in self._encoder.chunks(chunk)]

    def last(self) -> list[bytes]:
        """Return the last element and the end of the array."""
        return [self._element(_encode(self._encoder.last())), b"]"]

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the error as an element; the array stays open, because google-generativeai skips such an element."""
        return [self._element(error_body(error, request_id))]

    def _element(self, data: bytes) -> bytes:
        separator, self._has_elements = b"," if self._has_elements else b"", True
        return separator + data


class EventStream(SseResponse):
    """Response as server-sent events."""

    comment = KEEP_ALIVE


class JsonArray(SseResponse):
    """Response as one JSON array, each element sent as it arrives."""

    content_type = "application/json; charset=utf-8"
    separator = b""
    comment = b"\n"

    async def __aenter__(self) -> Self:
        """Send the head and the start of the array; nothing may stand before it, not even white space."""
        await super().__aenter__()
        await self.send_events([b"["])
        return self


def routes(chats: ChatService, bodies: BodyReader) -> list[web.RouteDef]:
    """Return the routes that the protocol declares."""
    return GeminiRoutes(chats, bodies).routes()
