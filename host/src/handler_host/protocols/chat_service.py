"""Chat service: runs a translated chat on a handler, and sends its response or stream back, for all protocols.

A protocol brings decoders, responses, a :class:`StreamEncoder` and an error format; everything else is here, so any
client reaches any handler.
"""

from __future__ import annotations

import functools
import logging
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import msgspec
from aiohttp import web
from multidict import istr

from handler_host.config.model_aliases import ModelTarget
from handler_host.config.model_info import ModelInfo
from handler_host.dispatch.chat_tokens import tokens_by_kind
from handler_host.dispatch.directory import CANNOT_RUN
from handler_host.dispatch.dispatcher import Dispatcher
from handler_host.dispatch.model_names import split_model
from handler_host.dispatch.request import Request
from handler_host.http import request_context
from handler_host.http.errors import to_host_error
from handler_host.http.request_context import RequestContext
from handler_host.http.sse import SseResponse
from handler_host.lifecycle.reports import HandlerStatus
from handler_host.plugin.errors import (
    HandlerFault,
    HostError,
    InvalidInput,
    ModelNotFound,
    UnknownHandler,
    UnknownOperation,
)

if TYPE_CHECKING:
    from handler_host.chat import types as chat
    from handler_host.protocols.fields import IgnoredFields
    from handler_host.protocols.translated_request import TranslatedRequest

CHAT = "chat"
"""Operation that responds to chats."""
COUNT_TOKENS = "count_tokens"
"""Operation that counts the tokens of a chat request; optional."""
MAX_MODEL = 100
"""Characters of the model's name in log and failure records."""
UNSUPPORTED_FIELDS = istr("X-Unsupported-Fields")
"""Header with the client's choice for fields that the host or the handler lacks."""
DEFAULT_MODE = "ignore-hints"

T = TypeVar("T")

log = logging.getLogger(__name__)
_encode = msgspec.json.encode


class _Named(msgspec.Struct):
    """Body of which only the model is needed."""

    model: str = ""


class _Decoders:
    """Decoders of handlers' responses; made with the first chat, because a host without chats needs no chat types."""

    def __init__(self) -> None:
        from handler_host.chat import types

        self.chunk: msgspec.json.Decoder[types.ChatChunk] = msgspec.json.Decoder(types.ChatChunk)
        self.model_chunk = types.ModelChunk
        self.usage_chunk = types.UsageChunk
        self.ignored_chunk = types.IgnoredChunk
        self.modes: tuple[str, ...] = typing.get_args(types.Unsupported)
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


class ListedModel(NamedTuple):
    """Entry of the lists of models."""

    name: str
    """Name for requests."""
    handler: HandlerStatus
    model: str | None
    """The handler's model; None: it is unknown."""

    @property
    def info(self) -> ModelInfo | None:
        """Facts about the model, if they are known."""
        return self.handler.models.get(self.model) if self.model is not None else None

    @property
    def title(self) -> str:
        """Title for people: that of the handler, or the name if that is one of ``[models]``."""
        return (self.handler.title or self.name) if split_model(self.name).handler == self.handler.name else self.name

    def has_operation(self, operation: str) -> bool:
        """Return whether the handler has an operation, or may have it."""
        return _may_run(self.handler, operation)


class ChatService:
    """Chats with handlers, for the routes of a protocol."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self._directory = dispatcher.directory
        self._names = dispatcher.models

    def models(self) -> list[ListedModel]:
        """Return the handlers that chat, or may, with the models that they declare, then the names of ``[models]``.

        Handlers that the key may not use are left out.
        """
        consumer = request_context.current.get().consumer
        handlers = {status.name: status for status in self._directory.statuses(consumer) if _may_run(status, CHAT)}
        aliases = self._names.aliases()
        listed: list[ListedModel] = []
        for name, status in handlers.items():
            if name not in aliases:
                listed.append(ListedModel(name, status, status.default_model))
            listed += [ListedModel(f"{name}/{model}", status, model) for model in status.models]
        return listed + [
            ListedModel(name, handlers[target.handler], target.model or handlers[target.handler].default_model)
            for name, target in aliases.items()
            if target.handler in handlers
        ]

    def model(self, name: str) -> ListedModel:
        """Return one model of a handler that chats, or may; raises ``ModelNotFound``."""
        listed = self.find(name)
        if not listed.has_operation(CHAT):
            state = listed.handler.state
            raise ModelNotFound(f"handler {listed.handler.name!r} does not chat ({state})", param="model")
        return listed

    def find(self, name: str) -> ListedModel:
        """Return one model, whatever operations its handler has; raises ``ModelNotFound``."""
        target = self._names.resolve(name)
        try:
            status = self._directory.status(target.handler, request_context.current.get().consumer)
        except UnknownHandler as error:
            raise self.not_found(name, target, error) from None
        return ListedModel(name, status, target.model or status.default_model)

    def has_alias(self, name: str) -> bool:
        """Return whether ``[models]`` has this very name."""
        return name in self._names.aliases()

    def set_keep_alive(self, model: str, seconds: float | None) -> None:
        """Set the idle time of a model's handler; None: that of the configuration, negative: no end."""
        consumer = request_context.current.get().consumer
        self.dispatcher.set_keep_alive(self._names.resolve(model).handler, consumer, seconds)

    async def set_loaded(self, model: str, *, loaded: bool, keep_alive_s: float | None) -> None:
        """Load a model's handler, or have it unloaded when it is idle; raises ``ModelNotFound``."""
        handler = self.model(model).handler.name
        self.set_keep_alive(model, keep_alive_s)
        if loaded:
            await self.dispatcher.load(handler)

    def field_policy(self, http_request: web.Request, model: str | None = None) -> Callable[[bytes], IgnoredFields]:
        """Return a function from a body to the sink for its ignored fields, with the choice that applies to them.

        That is the choice of the request's header, else of its consumer, else of the handler; ``model`` is read from
        the body if it is None. Raises ``InvalidInput`` for an invalid header.
        """
        from handler_host.protocols.fields import IgnoredFields

        modes = _decoders().modes
        choice = http_request.headers.get(UNSUPPORTED_FIELDS)
        if choice is not None and choice not in modes:
            raise InvalidInput(
                f"{UNSUPPORTED_FIELDS}: {choice[:50]!r} must be {' or '.join(modes)}", param=UNSUPPORTED_FIELDS
            )
        consumer = request_context.current.get().consumer
        choice = choice or (consumer.unsupported if consumer is not None else None)

        def mode_of(body: bytes) -> str:
            return choice or self.dispatcher.unsupported_of(
                lambda: self._names.resolve(model_of(body) if model is None else model).handler
            )

        return lambda body: IgnoredFields(typing.cast("chat.Unsupported", mode_of(body)))

    async def respond(self, model: str, request: TranslatedRequest) -> chat.ChatResponse:
        """Return the whole response of a model's handler; an error names the field as the client does."""
        context, target, dispatch = self._dispatch(model, CHAT, request)
        try:
            data = await self.dispatcher.run(dispatch)
        except (UnknownHandler, UnknownOperation) as error:
            raise self.not_found(model, target, error) from None
        except InvalidInput as error:
            raise request.with_client_path(error) from None
        response = _decode(_decoders().response, data)
        if response.usage is not None:
            self._count_tokens(context, response.model, response.usage)
        if response.ignored:
            _note_ignored(context, request, response.ignored)
        if not response.model and context.handler != target.handler:
            response.model = context.handler  # a fallback, which has not named its model
        return response

    async def count(self, model: str, request: TranslatedRequest) -> chat.TokenCount:
        """Return the tokens of a request; raises ``UnknownOperation`` for a handler that cannot count them."""
        _, target, dispatch = self._dispatch(model, COUNT_TOKENS, request)
        try:
            data = await self.dispatcher.run(dispatch)
        except UnknownHandler as error:
            raise self.not_found(model, target, error) from None
        except InvalidInput as error:
            raise request.with_client_path(error) from None
        return _decode(_decoders().count, data)

    async def stream(
        self,
        http_request: web.Request,
        model: str,
        request: TranslatedRequest,
        encoder: StreamEncoder,
        response_class: type[SseResponse] = SseResponse,
    ) -> web.StreamResponse:
        """Respond to ``http_request`` with the stream of a model's handler; raises what fails before the first chunk.

        ``response_class`` is the form in which the protocol sends its events.
        """
        context, target, dispatch = self._dispatch(model, CHAT, request)
        try:
            async with self.dispatcher.stream(dispatch) as stream:
                # Before the head is sent: an error of the translation gets its status, too.
                first = _decode_chunks(stream.chunks)
                if first and isinstance(first[0], _decoders().ignored_chunk):
                    _note_ignored(context, request, first[0].fields)
                if context.handler is not None and context.handler != target.handler:
                    first.insert(0, _decoders().model_chunk(model=context.handler))  # in case it names no model itself
                events = _events(encoder, first)
                async with response_class(http_request, context) as response:
                    usage, used_model = _last_usage(first), _last_model(first)
                    try:
                        chunks = stream.chunks
                        while chunks:
                            await response.send_events(events)
                            chunks = await stream.read_chunks()
                            decoded = _decode_chunks(chunks)
                            usage = _last_usage(decoded) or usage
                            used_model = _last_model(decoded) or used_model
                            events = _events(encoder, decoded)
                        await response.send_events(encoder.last())
                    except ConnectionError:
                        raise  # the client has gone
                    except Exception as error:  # noqa: BLE001 - the status is sent: any error becomes an event
                        # No name for the error: its traceback has this frame, and each would keep the other alive.
                        events = encoder.failed(context.fail(to_host_error(error, context)), context.request_id)
                        for event in events:  # each in a chunk of its own, as clients of Gemini need it
                            await response.send_events([event])
                    finally:
                        if usage is not None:
                            self._count_tokens(context, used_model, usage)
                return response.response
        except (UnknownHandler, UnknownOperation) as error:
            raise self.not_found(model, target, error) from None
        except InvalidInput as error:
            raise request.with_client_path(error) from None

    def deadline(self) -> float:
        """Return the deadline of the present request: that of the native attempt before, if there was one."""
        forced = request_context.current.get().forced_handler
        return self.dispatcher.new_deadline() if forced is None else forced.deadline

    def _dispatch(
        self, model: str, operation: str, request: TranslatedRequest
    ) -> tuple[RequestContext, ModelTarget, Request]:
        """Return the dispatch of a request, with its context and the handler and model of the requested name."""
        context = request_context.current.get()
        context.model = model[:MAX_MODEL]
        target = self._names.resolve(model)
        context.ignored_fields = request.ignored.names
        if request.ignored.mode != DEFAULT_MODE:
            request.chat.unsupported = request.ignored.mode
        request.chat.model = target.model  # [models] may have another one than the name of the client's request
        forced = context.forced_handler
        if forced is not None and forced.is_fallback:
            request.chat.model = None
        dispatch = Request(
            handler=target.handler if forced is None else forced.name,
            operation=operation,
            body=_encode(request.chat),
            caller=context.caller(),
            deadline=self.deadline(),
            fallback=forced is None,
            affinity=request.chat.prompt_cache_key,
        )
        return context, target, dispatch

    def _count_tokens(self, context: RequestContext, model: str | None, usage: chat.Usage) -> None:
        """Count the tokens of a response for the handler that made it."""
        if context.handler is not None:
            self.dispatcher.count_tokens(context.caller(), context.handler, model, tokens_by_kind(usage))

    def not_found(self, model: str, target: ModelTarget, error: UnknownHandler | UnknownOperation) -> ModelNotFound:
        """Return the error for a model that no handler serves."""
        name, message = target.handler, error.message
        consumer = request_context.current.get().consumer
        # The error may also be that of a handler which has dispatched to another one.
        if isinstance(error, UnknownHandler) and all(s.name != name for s in self._directory.statuses(consumer)):
            known = ", ".join(listed.name for listed in self.models()) or "none"
            # Not the target of an alias: the key may not use that handler, and does not learn of it.
            unknown = f"unknown handler {name!r}" if target == split_model(model) else f"unknown model {model!r}"
            message = f"{unknown}; handlers that chat: {known}"
        return ModelNotFound(f"{message} (GET /v1/models lists the models)", param="model")


def model_of(body: bytes) -> str:
    """Return the model that a body names, or an empty string for an invalid body: its decoder has the error."""
    try:
        return msgspec.json.decode(body, type=_Named).model
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _note_ignored(context: RequestContext, request: TranslatedRequest, fields: list[str]) -> None:
    """Note the fields that the handler has left out, for the response's head."""
    request.ignore(fields)
    context.ignored_fields = request.ignored.names
    log.debug("fields ignored", extra={"fields": {"names": request.ignored.names, "request_id": context.request_id}})


def _decode_chunks(chunks: list[bytes]) -> list[chat.ChatChunk]:
    decode = _decoders().chunk.decode
    try:
        return [decode(chunk) for chunk in chunks]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _invalid_response(error) from None


def _last_usage(chunks: list[chat.ChatChunk]) -> chat.Usage | None:
    usage_chunk = _decoders().usage_chunk
    return next((chunk.usage for chunk in reversed(chunks) if isinstance(chunk, usage_chunk)), None)


def _last_model(chunks: list[chat.ChatChunk]) -> str | None:
    model_chunk = _decoders().model_chunk
    return next((chunk.model for chunk in reversed(chunks) if isinstance(chunk, model_chunk)), None)


def _events(encoder: StreamEncoder, chunks: list[chat.ChatChunk]) -> list[bytes]:
    return [event for chunk in chunks for event in encoder.events(chunk)]


def _decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _invalid_response(error) from None


def _invalid_response(error: Exception) -> HandlerFault:
    return HandlerFault(f"the handler's operation returned data that is not part of a chat: {error}")


def _may_run(status: HandlerStatus, operation: str) -> bool:
    if status.state in CANNOT_RUN:
        return False
    return status.operations is None or any(report.name == operation for report in status.operations)
