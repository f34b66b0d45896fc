"""Chat service: runs a translated chat on a handler, and sends its response or stream back, for all protocols.

A protocol brings decoders, responses, a :class:`StreamEncoder` and an error format; everything else is here, so any
client reaches any handler.
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
from handler_host.http.request_context import RequestContext
from handler_host.http.sse import SseResponse
from handler_host.lifecycle.reports import HandlerStatus
from handler_host.plugin.errors import HandlerFault, HostError, ModelNotFound, UnknownHandler, UnknownOperation

if TYPE_CHECKING:
    from handler_host.chat import types as chat

CHAT = "chat"
"""Operation that responds to chats."""
COUNT_TOKENS = "count_tokens"
"""Operation that counts the tokens of a chat request; optional."""
CANNOT_RUN = frozenset(typing.get_args(ProblemState))

T = TypeVar("T")

_encode = msgspec.json.encode


class _Decoders:
    """Decoders of handlers' responses; made with the first chat, because a host without chats needs no chat types."""

    def __init__(self) -> None:
        from handler_host.chat import types

        self.chunk: msgspec.json.Decoder[types.ChatChunk] = msgspec.json.Decoder(types.ChatChunk)
        self.model_chunk = types.ModelChunk
        self.response = msgspec.json.Decoder(types.ChatResponse)
        self.count = msgspec.json.Decoder(types.TokenCount)


_decoders = functools.cache(_Decoders)


class StreamEncoder(Protocol):
    """Encoder of one stream; it returns events as :func:`handler_host.http.sse.event` makes them."""

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the events for one chunk, perhaps none."""

    def last(self) -> list[bytes]:
        """Return the events for the end of the stream."""

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the events for an error after the status was sent."""


class ChatService:
    """Chats with handlers, for the routes of a protocol."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._directory = dispatcher.directory

    def models(self) -> list[HandlerStatus]:
        """Return the handlers that chat, or may, as far as the key may use them."""
        consumer = request_context.current.get().consumer
        return [status for status in self._directory.statuses(consumer) if _may_chat(status)]

    def model(self, name: str) -> HandlerStatus:
        """Return the handler of a model; raises ``ModelNotFound``."""
        try:
            status = self._directory.status(handler_of(name), request_context.current.get().consumer)
        except UnknownHandler as error:
            raise self._not_found(name, error) from None
        if not _may_chat(status):
            raise ModelNotFound(f"handler {status.name!r} does not chat ({status.state})", param="model")
        return status

    async def respond(self, model: str, request: chat.ChatRequest) -> chat.ChatResponse:
        """Return the whole response of a model's handler."""
        context = request_context.current.get()
        dispatch = self._dispatch(context, model, CHAT, request)
        try:
            data = await self._dispatcher.run(dispatch)
        except (UnknownHandler, UnknownOperation) as error:
            raise self._not_found(model, error) from None
        response = _decode(_decoders().response, data)
        if not response.model and context.handler != dispatch.handler:
            response.model = context.handler  # a fallback, which has not named its model
        return response

    async def count(self, model: str, request: chat.ChatRequest) -> chat.TokenCount:
        """Return the tokens of a request; raises ``UnknownOperation`` for a handler that cannot count them."""
        context = request_context.current.get()
        try:
            data = await self._dispatcher.run(self._dispatch(context, model, COUNT_TOKENS, request))
        except UnknownHandler as error:
            raise self._not_found(model, error) from None
        return _decode(_decoders().count, data)

    async def stream(
        self,
        http_request: web.Request,
        model: str,
        request: chat.ChatRequest,
        encoder: StreamEncoder,
        response_class: type[SseResponse] = SseResponse,
    ) -> web.StreamResponse:
        """Respond to ``http_request`` with the stream of a model's handler; raises what fails before the first chunk.

        ``response_class`` is the form in which the protocol sends its events.
        """
        context = request_context.current.get()
        dispatch = self._dispatch(context, model, CHAT, request)
        try:
            async with self._dispatcher.stream(dispatch) as stream:
                chunks = stream.chunks
                # Before the head is sent: an error of the translation gets its status, too.
                events = _events(encoder, chunks, context.handler if context.handler != dispatch.handler else None)
                async with response_class(http_request, context) as response:
                    try:
                        while chunks:
                            await response.send_events(events)
                            chunks = await stream.read_chunks()
                            events = _events(encoder, chunks)
                        await response.send_events(encoder.last())
                    except ConnectionError:
                        raise  # the client has gone
                    except Exception as error:  # noqa: BLE001 - the status is sent: any error becomes an event
                        # No name for the error: its traceback has this frame, and each would keep the other alive.
                        events = encoder.failed(to_host_error(error, context.request_id), context.request_id)
                        await response.send_events(events)
                return response.response
        except (UnknownHandler, UnknownOperation) as error:
            raise self._not_found(model, error) from None

    def _dispatch(self, context: RequestContext, model: str, operation: str, request: chat.ChatRequest) -> Request:
        return Request(
            handler=handler_of(model),
            operation=operation,
            body=_encode(request),
            caller=context.caller(),
            deadline=self._dispatcher.new_deadline(),
        )

    def _not_found(self, model: str, error: UnknownHandler | UnknownOperation) -> ModelNotFound:
        name, message = handler_of(model), error.message
        consumer = request_context.current.get().consumer
        # The error may also be that of a handler which has dispatched to another one.
        if isinstance(error, UnknownHandler) and all(s.name != name for s in self._directory.statuses(consumer)):
            known = ", ".join(status.name for status in self.models()) or "none"
            message = f"unknown handler {name!r}; handlers that chat: {known}"
        return ModelNotFound(f"{message} (GET /v1/models lists the models)", param="model")


def handler_of(model: str) -> str:
    """Return the handler that a model names: the part before the first slash."""
    return model.partition("/")[0]


def _events(encoder: StreamEncoder, chunks: list[bytes], fallback: str | None = None) -> list[bytes]:
    """Return the events of the chunks; ``fallback`` is the handler that responds in place of the requested one."""
    decoders = _decoders()
    decode = decoders.chunk.decode
    try:
        decoded = [decode(chunk) for chunk in chunks]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _invalid_response(error) from None
    if fallback is not None:
        decoded.insert(0, decoders.model_chunk(model=fallback))  # in case it names no model itself
    return [event for chunk in decoded for event in encoder.events(chunk)]


def _decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _invalid_response(error) from None


def _invalid_response(error: Exception) -> HandlerFault:
    return HandlerFault(f"the handler's operation returned data that is not part of a chat: {error}")


def _may_chat(status: HandlerStatus) -> bool:
    if status.state in CANNOT_RUN:
        return False
    return status.operations is None or any(operation.name == CHAT for operation in status.operations)
