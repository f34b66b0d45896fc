"""Native operations in the worker: from a call's payload to the plugin's request, and from its response back."""

from __future__ import annotations

import reprlib

import msgspec

from handler_host._internal.source_location import in_brackets
from handler_host.channel.native_messages import (
    MalformedMessage,
    RequestHead,
    ResponseHead,
    decode_request,
    encode_message,
)
from handler_host.plugin.errors import InvalidInput, UpstreamError
from handler_host.plugin.native_operations import NATIVE_OPERATIONS, ModelSpan, NativeRequest
from handler_host.plugin.native_response import NativeResponse


def native_request(operation: str, payload: bytes) -> NativeRequest:
    """Return the request of a call; raises ``InvalidInput`` for one that came from a route of its own."""
    try:
        head, body = decode_request(payload)
    except MalformedMessage:
        route = NATIVE_OPERATIONS.get(operation, "the routes of its protocol")
        raise InvalidInput(f"{operation} is a native operation; call it with {route}", param="operation") from None
    return NativeRequest(
        operation=operation,
        method=head.method,
        model=head.model,
        stream=head.stream,
        headers=head.headers,
        query=head.query,
        body=body,
        spans=_spans(head),
    )


def checked_start(item: object, place: str) -> NativeResponse:
    """Return the first item of a native operation; raises ``TypeError`` if it is not a ``NativeResponse``."""
    if not isinstance(item, NativeResponse):
        where = in_brackets(place)
        raise TypeError(f"the operation{where} first yielded {reprlib.repr(item)}; yield a NativeResponse, then bytes")
    return item


def check_part(item: object, place: str) -> None:
    """Raise ``TypeError`` unless ``item`` is bytes: a frame with another type would end all calls of the worker."""
    if not isinstance(item, bytes | bytearray | memoryview):
        where = in_brackets(place)
        raise TypeError(f"the operation{where} yielded {reprlib.repr(item)} after its NativeResponse; yield bytes")


def encode_start(start: NativeResponse, request: NativeRequest, body: bytes = b"") -> bytes:
    """Return the message for the start of a response, and its body if it is there already."""
    headers = {str(name).lower(): str(value) for name, value in start.headers.items()}
    head = ResponseHead(
        status=start.status, headers=headers, model=request.sent_model, is_other_model=request.is_other_model
    )
    return encode_message(head, body)


def whole_body(parts: list[bytes]) -> bytes:
    """Return a response that is not a stream; raises ``UpstreamError`` for one that the provider has cut off."""
    body = b"".join(parts)
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        # Other errors, such as for NaN, are left to the client: many parsers read more than the standard has.
        if body and "truncated" in str(error):
            raise UpstreamError(f"the provider's response was cut off after {len(body)} bytes") from None
    return body


def _spans(head: RequestHead) -> tuple[ModelSpan, ...]:
    return tuple(ModelSpan(span.start, span.end, span.prefix) for span in head.spans)
