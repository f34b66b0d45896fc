"""Native operations: a client's own protocol, passed to the provider and back as it came."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from handler_host._internal.suggestions import did_you_mean
from handler_host.plugin.errors import UpstreamAuth, UpstreamError
from handler_host.plugin.native_response import NativeResponse
from handler_host.plugin.operations import OPERATION_ATTRIBUTE, Method, OperationMark
from handler_host.plugin.provider_errors import (
    error_from_response,
    error_from_text,
    from_status,
    wait_of,
)
from handler_host.plugin.provider_words import ProviderError, find_error
from handler_host.plugin.sse import ResponseBody

NATIVE_OPERATIONS = {
    "openai.chat": "POST /v1/chat/completions",
    "openai.responses": "POST /v1/responses",
    "openai.embeddings": "POST /v1/embeddings",
    "anthropic.messages": "POST /v1/messages",
    "anthropic.count_tokens": "POST /v1/messages/count_tokens",
    "gemini.generate_content": "POST /v1beta/models/MODEL:generateContent",
    "gemini.count_tokens": "POST /v1beta/models/MODEL:countTokens",
    "gemini.embed_content": "POST /v1beta/models/MODEL:embedContent",
}
"""Native operations, each with the route that serves it."""

MAX_ERROR_BYTES = 256 * 1024
"""Longest body of a provider's error that is passed on."""
_MISSING_ROUTE = (404, 405, 501)


@dataclass(frozen=True)
class ModelSpan:
    """Place of a model's name in a body: bytes ``start`` to ``end``, a JSON string with its quotes."""

    start: int
    end: int
    prefix: str = ""
    """Text before the name, such as Gemini's ``models/``."""


@dataclass
class NativeRequest:
    """A client's request in the client's own protocol."""

    operation: str
    """Name of the operation, such as ``openai.chat``."""
    method: str
    """Last part of the route's path, where one operation serves several (``streamGenerateContent``); else empty."""
    model: str | None
    """The provider's model; None if the client named only the handler."""
    stream: bool
    """Whether the client wants a stream."""
    headers: Mapping[str, str]
    """Headers that the protocol defines for features, such as ``anthropic-beta``; names are lower-case."""
    query: Mapping[str, str]
    """Query parameters that the protocol defines for features."""
    body: bytes
    """The body as the client sent it, with the client's name of the model; :meth:`payload` has the provider's."""
    spans: tuple[ModelSpan, ...] = field(default=(), repr=False)
    sent_model: str | None = None
    """The model that the provider is asked for, once :meth:`payload` or :meth:`model_name` was called."""
    is_other_model: bool = False
    """Whether ``sent_model`` is not the model that the client named, so that the response keeps its name."""

    def model_name(self, default_model: str) -> str:
        """Return the model to ask the provider for: the client's, or ``default_model``."""
        self.sent_model = self.model or default_model
        return self.sent_model

    def payload(self, default_model: str) -> bytes:
        """Return the body for the provider: the client's bytes, with the model's name replaced in place.

        ``default_model`` is the model of a client that named only the handler.
        """
        model = self.model_name(default_model)
        if not self.spans:
            return self.body
        parts: list[bytes | memoryview] = []
        view, position = memoryview(self.body), 0
        for span in self.spans:
            parts += (view[position : span.start], json.dumps(span.prefix + model, ensure_ascii=False).encode())
            position = span.end
        return b"".join((*parts, view[position:]))


def native(name: str, /, *, summary: str = "") -> Callable[[Method], Method]:
    """Mark a method as a native operation, such as ``openai.chat``; declare it in ``handler.toml``, too.

    The method is an asynchronous generator. It receives a :class:`NativeRequest` (and a :class:`CallInfo` if it has a
    parameter ``call``), and yields a :class:`NativeResponse` and then the bytes of the body as they arrive.
    """
    if name not in NATIVE_OPERATIONS:
        raise ValueError(f"native: unknown operation {name!r}{did_you_mean(name, NATIVE_OPERATIONS)}")

    def mark(method: Method) -> Method:
        doc = (method.__doc__ or "").strip().partition("\n")[0]
        setattr(method, OPERATION_ATTRIBUTE, OperationMark(name, summary or doc, None, native=True))
        return method

    return mark


async def relay_httpx(response: Any) -> AsyncGenerator[NativeResponse | bytes, None]:
    """Yield a successful response of httpx or httpx2 as a native operation does; close it at the end."""
    start = NativeResponse(response.status_code, {name.lower(): value for name, value in response.headers.items()})
    try:
        async with aclosing(relay_body(start, response.aiter_bytes())) as parts:
            async for part in parts:
                yield part
    finally:
        await response.aclose()


async def relay_body(
    start: NativeResponse, chunks: AsyncIterable[bytes]
) -> AsyncGenerator[NativeResponse | bytes, None]:
    """Yield a successful response as a native operation does: ``start``, then ``chunks``, its bytes.

    Raises ``UpstreamError`` for a response that is not one of any protocol: a page, a text, or nothing.
    """
    content_type = start.headers.get("content-type", "")
    is_stream = "event-stream" in content_type
    if is_stream:
        yield start  # the client may wait long for the first event
    body = ResponseBody(chunks)
    match await body.first_byte():
        case b"":
            place = f"{start.status}, {content_type or 'no content type'}"
            raise UpstreamError(f"the provider's response is empty ({place})")
        case b"{" | b"[":
            pass
        case first:
            if first == b"<" or not (is_stream or "json" in content_type or await body.has_event_start()):
                raise error_from_text(await body.start(), content_type)
    if not is_stream:
        yield start
    async for chunk in body:
        yield chunk


def provider_refusal(response: NativeResponse) -> UpstreamError:
    """Return the error for a provider's response with an error status.

    If no retry and no fallback helps, the client gets the response as it came, unless its body is not an error of the
    protocol, such as a proxy's page: then the host's error repeats the provider's words. The response to a wrong key is
    left out, too: it is the handler's key, not the client's, and some providers repeat a part of it.
    """
    error = _protocol_error(response.body)
    if error is None:
        return error_from_response(response.status, response.headers, response.body)
    if error.refuses_key:
        return UpstreamAuth(f"the provider refused the handler's key ({response.status}); check the handler's secret")
    host_error = from_status(
        response.status,
        error.message,
        retry_after=wait_of(response.status, response.headers),
        param=error.param,
        code=error.code,
    )
    if response.status != 401 and len(response.body) <= MAX_ERROR_BYTES:
        host_error.response = response
    return host_error


def is_missing_route(response: NativeResponse) -> bool:
    """Return whether a server does not know a route; an unknown model is another 404, with the code of an error."""
    if response.status not in _MISSING_ROUTE:
        return False
    error = _protocol_error(response.body)
    return error is None or not error.code


def is_for_responses(response: NativeResponse) -> bool:
    """Return whether OpenAI refuses a chat completion that it takes in its Responses API: tools beside reasoning."""
    error = _protocol_error(response.body)
    return error is not None and error.param == "reasoning_effort" and "/v1/responses" in error.message


def _protocol_error(body: bytes) -> ProviderError | None:
    """Return the error in a body whose field ``error`` is an object or a text, or None for another body."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(content, list) and content:  # Gemini's streams that are not server-sent events
        content = content[0]
    error = content.get("error") if isinstance(content, dict) else None
    # Some servers with OpenAI's protocol send the text alone.
    return find_error({"error": error}) if isinstance(error, dict | str) else None
