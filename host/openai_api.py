"""The routes that clients of OpenAI know: ``/v1/chat/completions`` and ``/v1/models``.

A model is a handler's name, or ``handler/model``; the rest is the handler's matter.
"""

from __future__ import annotations

import time
import typing
from typing import TypeVar

import msgspec
from aiohttp import web

from host import chat_types as chat
from host import exchange
from host.call import Call
from host.catalog import ProblemState
from host.dispatch import Dispatcher, json_answer
from host.errors import HandlerFault, ModelNotFound, UnknownHandler, UnknownOperation
from host.event_stream import EventStream
from host.http_errors import envelope, foreseen
from host.openai_answers import ChunkMaker, Model, ModelList, completion
from host.openai_requests import decode_request
from host.reports import HandlerStatus
from host.request_limits import RequestLimits
from host.supervisor import Supervisor

CHAT = "chat"
"""The operation that answers chats."""
CANNOT_RUN = frozenset(typing.get_args(ProblemState))
DONE = b"[DONE]"

Shape = TypeVar("Shape")

_encode = msgspec.json.encode
_pieces = msgspec.json.Decoder(chat.ChatPiece)
_answers = msgspec.json.Decoder(chat.ChatAnswer)


class OpenAIRoutes:
    """Chat completions and models."""

    def __init__(self, supervisor: Supervisor, dispatcher: Dispatcher, limits: RequestLimits) -> None:
        self._supervisor = supervisor
        self._dispatcher = dispatcher
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
        models = [self._model(status, status.name) for status in self._supervisor.statuses() if _may_chat(status)]
        return json_answer(ModelList(data=models))

    async def show_model(self, request: web.Request) -> web.StreamResponse:
        """One of them."""
        model = request.match_info["model"]
        try:
            status = self._supervisor.status(model.partition("/")[0])
        except UnknownHandler as error:
            raise _model_not_found(error) from None
        if not _may_chat(status):
            raise ModelNotFound(f"handler {status.name!r} answers no chats ({status.state})", param="model")
        return json_answer(self._model(status, model))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat, at once or as a stream."""
        body = await self._limits.json_body(request)
        asked = decode_request(body)
        chat_body = _encode(asked.to_chat())
        try:
            if asked.stream:
                async with self._dispatcher.stream(asked.handler, CHAT, chat_body) as (first, rest):
                    maker = ChunkMaker(
                        number=_number(), created=int(time.time()), model=asked.model, include_usage=asked.include_usage
                    )
                    return await _stream(request, maker, first, rest)
            answer = await self._dispatcher.answer(asked.handler, CHAT, chat_body)
        except (UnknownHandler, UnknownOperation) as error:
            raise _model_not_found(error) from None
        whole = completion(_decode(_answers, answer), number=_number(), created=int(time.time()), model=asked.model)
        return json_answer(whole)

    def _model(self, status: HandlerStatus, name: str) -> Model:
        return Model(id=name, created=self._created, owned_by=status.distribution)


async def _stream(request: web.Request, maker: ChunkMaker, first: list[bytes], rest: Call) -> web.StreamResponse:
    current = exchange.current.get()
    # What cannot be translated is to fail before the head is sent, too.
    chunks = _chunks(maker, first)
    async with EventStream(request, current) as events:
        try:
            pieces = first
            while pieces:
                if chunks:
                    await events.send(chunks)
                pieces = await rest.pieces()
                chunks = _chunks(maker, pieces)
            await events.send([*map(_encode, maker.last()), DONE])
        except ConnectionError:
            raise  # the client has gone
        except Exception as error:  # noqa: BLE001 - the status is sent: any error becomes an event
            await events.send([envelope(foreseen(error, current.request_id), current.request_id)])
    return events.response


def _chunks(maker: ChunkMaker, pieces: list[bytes]) -> list[bytes]:
    return [_encode(chunk) for piece in pieces for chunk in maker.chunks(_decode(_pieces, piece))]


def _decode(decoder: msgspec.json.Decoder[Shape], data: bytes) -> Shape:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HandlerFault(f"the handler's chat operation gave what is no part of a chat: {error}") from None


def _number() -> str:
    return f"chatcmpl-{exchange.current.get().request_id}"


def _may_chat(status: HandlerStatus) -> bool:
    if status.state in CANNOT_RUN:
        return False
    return status.operations is None or any(operation.name == CHAT for operation in status.operations)


def _model_not_found(error: UnknownHandler | UnknownOperation) -> ModelNotFound:
    return ModelNotFound(f"{error.message} (GET /v1/models lists the models)", param="model")
