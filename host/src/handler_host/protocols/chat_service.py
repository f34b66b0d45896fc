"""What the chat routes of all protocols share: a translated request to a handler, its answer or stream back.

Each protocol brings its decoder, its answers, a :class:`StreamEncoder` for streams
and its envelope of errors; everything else is here, so that any client reaches any
handler.
"""

from __future__ import annotations

import functools
import typing
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec
from aiohttp import web

from handler_host.catalog.catalog import ProblemState
from handler_host.dispatch.dispatcher import Dispatcher
from handler_host.dispatch.request import Request
from handler_host.http import request_context
from handler_host.http.errors import to_host_error
from handler_host.http.sse import SseResponse
from handler_host.lifecycle.reports import HandlerStatus
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import HandlerFault, HostError, ModelNotFound, UnknownHandler, UnknownOperation

if TYPE_CHECKING:
    from handler_host.chat import types as chat

CHAT = "chat"
"""The operation that answers chats."""
COUNT_TOKENS = "count_tokens"
"""The operation that counts the tokens of a chat request; not every handler has it."""
CANNOT_RUN = frozenset(typing.get_args(ProblemState))

Shape = TypeVar("Shape")

_encode = msgspec.json.encode


class _Decoders:
    """What handlers answer with; made with the first chat, with the types that a host without chats does without."""

    def __init__(self) -> None:
        from handler_host.chat import types

        self.chunk: msgspec.json.Decoder[types.ChatChunk] = msgspec.json.Decoder(types.ChatChunk)
        self.model_chunk = types.ModelChunk
        self.answer = msgspec.json.Decoder(types.ChatResponse)
        self.count = msgspec.json.Decoder(types.TokenCount)


_decoders = functools.cache(_Decoders)


class StreamEncoder(Protocol):
    """One stream in the events of a protocol, each as :func:`handler_host.http.sse.event` makes it."""

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return what to send for one piece, which may be nothing."""

    def last(self) -> list[bytes]:
        """Return what to send when the pieces have ended."""

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return what to send for an error, when the status has been sent already."""


class ChatService:
    """Chats with handlers, for the routes of a protocol."""

    def __init__(self, supervisor: Supervisor, dispatcher: Dispatcher) -> None:
        self._supervisor = supervisor
        self._dispatcher = dispatcher

    def models(self) -> list[HandlerStatus]:
        """Return the handlers that chat, or may, as far as the key may use them."""
        consumer = request_context.current.get().consumer
        return [
            status
            for status in self._supervisor.statuses()
            if _may_chat(status) and (consumer is None or consumer.allows(status.name))
        ]

    def model(self, name: str) -> HandlerStatus:
        """Return the handler of a model; raises ``ModelNotFound``."""
        try:
            status = self._supervisor.status(handler_of(name))
        except UnknownHandler as error:
            raise self._not_found(name, error) from None
        consumer = request_context.current.get().consumer
        if consumer is not None and not consumer.allows(status.name):
            raise ModelNotFound(f"this key is not for the handler {status.name!r}", param="model")
        if not _may_chat(status):
            raise ModelNotFound(f"handler {status.name!r} answers no chats ({status.state})", param="model")
        return status

    async def respond(self, model: str, asked: chat.ChatRequest) -> chat.ChatResponse:
        """Return the whole response of a model's handler."""
        try:
            response = await self._dispatcher.run(self._dispatch(model, CHAT, asked))
        except (UnknownHandler, UnknownOperation) as error:
            raise self._not_found(model, error) from None
        decoded = _decode(_decoders().answer, response)
        decoded.model = decoded.model or _stand_in(model)
        return decoded

    async def count(self, model: str, asked: chat.ChatRequest) -> chat.TokenCount:
        """Return the tokens of a request; raises ``UnknownOperation`` for a handler that cannot count them."""
        try:
            response = await self._dispatcher.run(self._dispatch(model, COUNT_TOKENS, asked))
        except UnknownHandler as error:
            raise self._not_found(model, error) from None
        return _decode(_decoders().count, response)

    async def stream(
        self,
        request: web.Request,
        model: str,
        asked: chat.ChatRequest,
        translation: StreamEncoder,
        stream: type[SseResponse] = SseResponse,
    ) -> web.StreamResponse:
        """Respond to ``request`` with the stream of a model's handler; raises what fails before the first chunk.

        ``stream`` is the form in which the protocol sends its events.
        """
        context = request_context.current.get()
        try:
            async with self._dispatcher.stream(self._dispatch(model, CHAT, asked)) as response:
                chunks = response.chunks
                # Before the head is sent: an error of the translation gets its status, too.
                translated = _translate(translation, chunks, _stand_in(model))
                async with stream(request, context) as events:
                    try:
                        while chunks:
                            await events.send_events(translated)
                            chunks = await response.read_chunks()
                            translated = _translate(translation, chunks)
                        await events.send_events(translation.last())
                    except ConnectionError:
                        raise  # the client has gone
                    except Exception as error:  # noqa: BLE001 - the status is sent: any error becomes an event
                        # No name for the error: its traceback has this frame, and each would keep the other alive.
                        last = translation.failed(to_host_error(error, context.request_id), context.request_id)
                        await events.send_events(last)
                return events.response
        except (UnknownHandler, UnknownOperation) as error:
            raise self._not_found(model, error) from None

    def _dispatch(self, model: str, operation: str, request: chat.ChatRequest) -> Request:
        return Request(
            handler=handler_of(model),
            operation=operation,
            body=_encode(request),
            caller=request_context.current.get().caller(),
            deadline=self._dispatcher.new_deadline(),
        )

    def _not_found(self, model: str, error: UnknownHandler | UnknownOperation) -> ModelNotFound:
        name, message = handler_of(model), error.message
        if isinstance(error, UnknownHandler) and all(status.name != name for status in self._supervisor.statuses()):
            known = ", ".join(status.name for status in self.models()) or "none"
            message = f"there is no handler {name!r}; those that chat: {known}"
        return ModelNotFound(f"{message} (GET /v1/models lists the models)", param="model")


def handler_of(model: str) -> str:
    """Return the handler that a model names: all of it, or what stands before the first slash."""
    return model.partition("/")[0]


def _translate(translation: StreamEncoder, chunks: list[bytes], model: str | None = None) -> list[bytes]:
    """Return the events of the chunks; ``model`` is the one to name if the handler names none."""
    decoders = _decoders()
    decoded = [_decode(decoders.chunk, chunk) for chunk in chunks]
    if model is not None:
        decoded.insert(0, decoders.model_chunk(model=model))
    return [event for chunk in decoded for event in translation.events(chunk)]


def _stand_in(model: str) -> str | None:
    """Return the handler that answers instead of the one that was asked, if there is one: it may not name its model."""
    handler = request_context.current.get().handler
    return handler if handler != handler_of(model) else None


def _decode(decoder: msgspec.json.Decoder[Shape], data: bytes) -> Shape:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HandlerFault(f"the handler's chat operation gave what is no part of a chat: {error}") from None


def _may_chat(status: HandlerStatus) -> bool:
    if status.state in CANNOT_RUN:
        return False
    return status.operations is None or any(operation.name == CHAT for operation in status.operations)
