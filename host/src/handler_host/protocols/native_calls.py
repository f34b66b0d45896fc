"""Native calls: a client's request passed to a handler that speaks the same protocol, and its response passed back.

Every chat of a client enters here: a handler without the native operation gets the translated request, and so does a
fallback without it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec
from aiohttp import hdrs, web
from multidict import CIMultiDict

from handler_host.channel.native_messages import (
    MAX_STATUS,
    MIN_STATUS,
    MalformedMessage,
    RequestHead,
    ResponseHead,
    decode_response,
    encode_message,
)
from handler_host.config.model_aliases import ModelTarget
from handler_host.dispatch.dispatcher import ResponseStream
from handler_host.dispatch.presets import with_preset
from handler_host.dispatch.request import Request
from handler_host.http import request_context
from handler_host.http.body import BodyReader, has_match, invalid_json
from handler_host.http.errors import to_host_error
from handler_host.http.request_context import ForcedHandler, RequestContext
from handler_host.http.sse import EVENT_STREAM
from handler_host.plugin.errors import HandlerFault, InvalidInput, UnknownHandler, UnknownOperation, UpstreamError
from handler_host.plugin.native_response import NativeResponse
from handler_host.protocols.chat_service import MAX_MODEL, ChatService
from handler_host.protocols.json_fields import Value, fields_of, text_of
from handler_host.protocols.native_events import EventRelay, ModelName
from handler_host.protocols.native_operation import REQUEST_ID_HEADERS, NativeOperation
from handler_host.protocols.native_streams import relay_bytes, relay_events
from handler_host.protocols.native_usage import TailCounter, lacks_stream_usage, token_counts, with_stream_usage
from handler_host.protocols.opaque import SEALED
from handler_host.protocols.provider_state import refuse_state

PROVIDER_REQUEST_ID = "X-Provider-Request-ID"
AUTH_STATUSES = (401, 403)
"""Statuses of a provider that concern the handler's key: clients would take them for their own key's."""
PROVIDER_STATUSES = range(MIN_STATUS, MAX_STATUS + 1)
STATUSES_WITHOUT_BODY = (204, 304)
# A plugin may send any text; with a line end aiohttp would drop the connection instead of a response.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t -~\x80-\ud7ff\ue000-\uffff]*")

Translated = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]
"""Responds to a request and its body through the chat contract."""


class NativeCalls:
    """Native calls of all protocols."""

    def __init__(self, chats: ChatService, bodies: BodyReader) -> None:
        self._chats = chats
        self._bodies = bodies
        self._dispatcher = chats.dispatcher

    async def respond(
        self,
        http_request: web.Request,
        operation: NativeOperation,
        body: bytes,
        translated: Translated | None = None,
        *,
        model: str | None = None,
        stream: bool | None = None,
        method: str = "",
    ) -> web.StreamResponse:
        """Respond to a request natively if its handler, or a fallback of it, speaks the protocol; else ``translated``.

        ``model`` and ``stream`` are given if they are not fields of the body. Without ``translated`` a handler that
        does not speak the protocol is an error.
        """
        fields = await self._bodies.decode_data(body, _fields) if model is None else None
        name = model if model is not None else text_of(body, (fields or {}).get("model"))
        if name is None:
            return await _translate_or_refuse(http_request, body, translated)
        target = self._dispatcher.models.resolve(name)
        if translated is not None and (
            not any(
                self._dispatcher.speaks(candidate, operation.name)
                for candidate in (target.handler, *self._dispatcher.fallbacks(target.handler))
            )
            # Earlier turns came from another provider: a translation leaves out what is not for this one.
            or await has_match(SEALED, body)
        ):
            return await translated(http_request, body)
        fields = await self._bodies.decode_data(body, _fields) if fields is None else fields
        if fields is None:
            return await _translate_or_refuse(http_request, body, translated)
        wants_stream = stream if stream is not None else _is_true(body, fields.get("stream"))
        consumer = request_context.current.get().consumer
        # The limit would not hold for a stream without token counts.
        adds_usage = (
            (wants_stream and operation.has_usage_on_request)
            and (consumer is not None and consumer.has_token_limit)
            and lacks_stream_usage(body, fields)
        )
        call = _NativeCall(http_request, operation, body, fields, name, target, wants_stream, method, adds_usage)
        return await self._with_fallbacks(call, translated)

    async def _with_fallbacks(self, call: _NativeCall, translated: Translated | None) -> web.StreamResponse:
        context = request_context.current.get()
        context.model = call.name[:MAX_MODEL]
        request = Request(
            handler=call.target.handler,
            operation=call.operation.name,
            body=b"",
            caller=context.caller(),
            deadline=self._dispatcher.new_deadline(),
            fallback=call.operation.falls_back,
            affinity=text_of(call.body, call.fields.get("prompt_cache_key")),
        )

        async def run_once(request: Request) -> web.StreamResponse:
            is_fallback = request.handler != call.target.handler
            if translated is None or self._dispatcher.speaks(request.handler, call.operation.name):
                try:
                    return await self._pass_on(call, request, context, is_fallback=is_fallback)
                except UnknownHandler as error:
                    raise self._chats.not_found(call.name, call.target, error) from None
                except UnknownOperation as error:
                    # Of a server that has the protocol's other routes only: it chats all the same.
                    if translated is None:
                        raise self._chats.not_found(call.name, call.target, error) from None
            context.forced_handler = ForcedHandler(request.handler, is_fallback, request.deadline)
            try:
                return await translated(call.http_request, call.body)
            finally:
                context.forced_handler = None

        try:
            return await self._dispatcher.run_each(run_once, request)
        except UpstreamError as error:
            if error.response is None:
                raise
            response = _error_response(call.operation, error, error.response)
            context.fail(error, response.status)
            return response

    async def _pass_on(
        self, call: _NativeCall, request: Request, context: RequestContext, *, is_fallback: bool
    ) -> web.StreamResponse:
        """Run the native operation of one handler."""
        if not self._dispatcher.allows_provider_state(request.handler):
            await refuse_state(call.operation.name, call.body, call.fields, request.handler)
        context.ignored_fields = ()  # of a handler before this one that got a translated request
        dispatch = msgspec.structs.replace(
            request,
            body=self._message(call, request.handler, is_fallback=is_fallback),
            fallback=False,
            retry_on_crash=False,
        )
        if not call.stream:
            head, body = _decoded(await self._dispatcher.run(dispatch))
            self._count(request, head, token_counts(body))
            shown = call.shown_model(head, request.handler)
            body = ModelName(call.operation.response_model, head.model, shown).restore(body)
            return web.Response(status=head.status, body=body, headers=_headers(call.operation, head.headers))
        async with self._dispatcher.stream(dispatch) as stream:
            return await self._relay(call, stream, context, request)

    def _message(self, call: _NativeCall, handler: str, *, is_fallback: bool) -> bytes:
        preset = self._dispatcher.presets.of(handler)
        body = call.body if preset is None else with_preset(preset, call.operation.name, call.body)
        fields = call.fields if body is call.body else fields_of(body)
        if call.adds_usage:
            body = with_stream_usage(body, fields)
            fields = fields_of(body)
        return encode_message(call.head(body, fields, is_fallback=is_fallback), body)

    async def _relay(
        self, call: _NativeCall, stream: ResponseStream, context: RequestContext, request: Request
    ) -> web.StreamResponse:
        if not stream.chunks:
            raise HandlerFault(f"{call.operation.name} ended without a response")
        head, _ = _decoded(stream.chunks[0])
        headers = _headers(call.operation, head.headers)
        if head.status in STATUSES_WITHOUT_BODY:  # chunks after it would be the client's next response
            return web.Response(status=head.status, headers=headers)
        if not headers.get(hdrs.CONTENT_TYPE, "").startswith(EVENT_STREAM):
            tail = TailCounter()
            try:
                return await relay_bytes(call.http_request, context, stream, head, headers, tail)
            finally:
                self._count(request, head, tail.counts())
        shown = call.shown_model(head, request.handler)
        relay = EventRelay(ModelName(call.operation.event_model, head.model, shown), hides_usage=call.adds_usage)

        def failed(error: Exception) -> list[bytes]:
            host_error = context.fail(to_host_error(error, context))
            return call.operation.error_events(host_error, context.request_id)

        try:
            return await relay_events(
                call.http_request, context, stream, head, headers, relay, failed, call.operation.keep_alive
            )
        finally:
            self._count(request, head, relay.tokens)

    def _count(self, request: Request, head: ResponseHead, tokens: Mapping[str, int]) -> None:
        if tokens:
            self._dispatcher.count_tokens(request.caller, request.handler, head.model, tokens)


class _NativeCall(NamedTuple):
    """One request of a client."""

    http_request: web.Request
    operation: NativeOperation
    body: bytes
    fields: Mapping[str, Value]
    name: str
    """The client's name of the model."""
    target: ModelTarget
    stream: bool
    method: str
    adds_usage: bool
    """Whether the host asks for the tokens of the stream, and keeps them from the client."""

    def head(self, body: bytes, fields: Mapping[str, Value], *, is_fallback: bool) -> RequestHead:
        """Return the head for a handler; the model is one of the requested handler, so a fallback uses its own."""
        headers, query = self.http_request.headers, self.http_request.query
        return RequestHead(
            method=self.method,
            model=None if is_fallback else self.target.model,
            stream=self.stream,
            headers={
                name: ", ".join(headers.getall(name)) for name in self.operation.request_headers if name in headers
            },
            query={name: query[name] for name in self.operation.query if name in query},
            spans=tuple(self.operation.model_spans(body, fields)),
        )

    def shown_model(self, head: ResponseHead, handler: str) -> str:
        """Return the model's name for the client: its own, unless a fallback responds or the handler has another."""
        if handler != self.target.handler:
            return handler
        return head.model if head.is_other_model and head.model is not None else self.name


async def _translate_or_refuse(
    http_request: web.Request, body: bytes, translated: Translated | None
) -> web.StreamResponse:
    """Respond to a body whose fields cannot be read: the translation says what is wrong with it."""
    if translated is None:
        raise _no_model(body)
    return await translated(http_request, body)


def _fields(body: bytes) -> dict[str, Value] | None:
    """Return the places of a body's fields; None if it is not JSON, or has a field twice."""
    try:
        return fields_of(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return None


def _decoded(payload: bytes) -> tuple[ResponseHead, bytes]:
    try:
        return decode_response(payload)
    except MalformedMessage as error:
        raise HandlerFault(f"the handler's native operation sent no response: {error}") from None


def _headers(operation: NativeOperation, headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return those of the provider's headers that clients get."""
    passed = CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if operation.passes_back(name) and _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)
    )
    request_id = next((headers[name] for name in REQUEST_ID_HEADERS if name in headers), None)
    if request_id is not None and _HEADER_VALUE.fullmatch(request_id):
        passed[PROVIDER_REQUEST_ID] = request_id
    return passed


def _error_response(operation: NativeOperation, error: UpstreamError, response: NativeResponse) -> web.Response:
    """Return a provider's error as it came; only one that concerns the handler's key gets the host's status."""
    headers = _headers(operation, response.headers)
    status = response.status if response.status in PROVIDER_STATUSES else error.status
    if status in AUTH_STATUSES:
        status = error.status
        headers["x-should-retry"] = "false"
    return web.Response(status=status, body=response.body, headers=headers)


def _no_model(body: bytes) -> InvalidInput:
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return invalid_json(error)
    return InvalidInput("model is missing, or is not a text; name a handler, or HANDLER/MODEL", param="model")


def _is_true(body: bytes, value: Value | None) -> bool:
    return value is not None and body[value.start : value.end] == b"true"
