"""Messages of native operations: a small head in JSON, and the bytes of a body as they came.

The head stands before the body in the one payload of a call. A response that is not a stream has the same form; the
first chunk of a stream is the head, the others are the body.
"""

from __future__ import annotations

import struct
from typing import Annotated, TypeVar

import msgspec

MIN_STATUS, MAX_STATUS = 200, 599
"""Statuses of a final response; one of 100 would make a client wait for another head."""
LENGTH = struct.Struct(">I")
Head = TypeVar("Head", "RequestHead", "ResponseHead")


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Place of a model's name in a request's body."""

    start: int
    end: int
    prefix: str = ""


class RequestHead(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Facts about a request that the worker needs beside the body."""

    method: str = ""
    model: str | None = None
    """The provider's model; None: the handler's default."""
    stream: bool = False
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    spans: tuple[Span, ...] = ()


class ResponseHead(msgspec.Struct, frozen=True, kw_only=True):
    """Start of a response."""

    status: Annotated[int, msgspec.Meta(ge=MIN_STATUS, le=MAX_STATUS)]
    headers: dict[str, str] = {}
    model: str | None = None
    """The model that the provider was asked for."""
    is_other_model: bool = False
    """Whether the client named another model."""


class MalformedMessage(ValueError):
    """A payload is not a message of a native operation."""


def encode_message(head: RequestHead | ResponseHead, body: bytes) -> bytes:
    """Return the payload for a head and a body."""
    encoded = msgspec.json.encode(head)
    return b"".join((LENGTH.pack(len(encoded)), encoded, body))


def decode_request(payload: bytes) -> tuple[RequestHead, bytes]:
    """Return head and body; raises :class:`MalformedMessage`."""
    return _decode(_request_head, payload)


def decode_response(payload: bytes) -> tuple[ResponseHead, bytes]:
    """Return head and body; raises :class:`MalformedMessage`."""
    return _decode(_response_head, payload)


def _decode(decoder: msgspec.json.Decoder[Head], payload: bytes) -> tuple[Head, bytes]:
    head, body = _split(payload)
    try:
        return decoder.decode(head), body
    except msgspec.MsgspecError as error:
        raise MalformedMessage(str(error)) from None


def _split(payload: bytes) -> tuple[memoryview, bytes]:
    if len(payload) >= LENGTH.size:
        (length,) = LENGTH.unpack_from(payload)
        end = LENGTH.size + length
        if end <= len(payload):
            return memoryview(payload)[LENGTH.size : end], payload[end:]
    raise MalformedMessage("the payload has no head")


_request_head = msgspec.json.Decoder(RequestHead)
_response_head = msgspec.json.Decoder(ResponseHead)
