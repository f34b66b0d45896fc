"""Token counts in the responses and events of all protocols, read without a parse of the rest. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from handler_host.protocols.json_fields import Value

MARKER = b'"usage'
"""Start of the name of the field with token counts, ``usage`` or ``usageMetadata``."""
TAIL_BYTES = 64 * 1024
"""Bytes at the end of a response in which the counts of its last chunk are."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


_NO_DETAILS = _Details()


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    prompt_token_count: int | None = msgspec.field(default=None, name="promptTokenCount")
    candidates_token_count: int | None = msgspec.field(default=None, name="candidatesTokenCount")
    thoughts_token_count: int | None = msgspec.field(default=None, name="thoughtsTokenCount")
    cached_content_token_count: int | None = msgspec.field(default=None, name="cachedContentTokenCount")


class _Inner(msgspec.Struct):
    usage: _Usage | None = None


class _Document(msgspec.Struct):
    usage: _Usage | None = None
    usage_metadata: _Usage | None = msgspec.field(default=None, name="usageMetadata")
    response: _Inner | None = None
    """Events of the Responses API."""
    message: _Inner | None = None
    """Anthropic's ``message_start``."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw]


_decode = msgspec.json.Decoder(_Document).decode
_decode_options = msgspec.json.Decoder(_StreamOptions | None).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def token_counts(document: bytes) -> dict[str, int]:
    """Return the tokens of a response or an event by kind; an empty dict if it has none.

    ``input`` includes ``cached`` and ``cache_write``, ``output`` includes ``reasoning``.
    """
    if MARKER not in document:
        return {}
    try:
        decoded = _decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    inner = decoded.response or decoded.message
    usage = decoded.usage or decoded.usage_metadata or (inner.usage if inner is not None else None)
    return {} if usage is None else {kind: count for kind, count in _by_kind(usage).items() if count}


def lacks_stream_usage(body: bytes, fields: Mapping[str, Value]) -> bool:
    """Return whether a chat completion does not ask for the tokens of its stream; its fields are given.

    Options of another form are left to the provider.
    """
    place = fields.get("stream_options")
    try:
        options = None if place is None else _decode_options(body[place.start : place.end])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return options is None or not options.include_usage


def with_stream_usage(body: bytes, fields: Mapping[str, Value]) -> bytes:
    """Return a body that :func:`lacks_stream_usage` with the question for the tokens."""
    place = fields.get("stream_options")
    if place is None:
        start = body.index(b"{") + 1
        return b"".join((body[:start], b'"stream_options":{"include_usage":true},', body[start:]))
    options = msgspec.json.decode(body[place.start : place.end], type=dict[str, msgspec.Raw] | None) or {}
    options["include_usage"] = msgspec.Raw(b"true")
    return b"".join((body[: place.start], msgspec.json.encode(options), body[place.end :]))


def is_only_usage(event: bytes) -> bool:
    """Return whether a chunk of a chat completion has no choice: it is sent for ``include_usage`` alone."""
    try:
        return not _decode_chunk(event).choices
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


class TailCounter:
    """Token counts of a long response that is not a stream of events, such as Gemini's array of chunks.

    Those of its last chunk apply; the bytes before are not kept.
    """

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Read the next bytes."""
        self._tail = (self._tail + data)[-TAIL_BYTES:]

    def counts(self) -> dict[str, int]:
        """Return the tokens by kind; an empty dict if there are none."""
        _, marker, rest = self._tail.rpartition(b'"usageMetadata"')
        text = rest.decode(errors="replace").lstrip(" :\r\n\t")
        try:
            _, end = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            return {}
        return token_counts(b'{"usageMetadata":%s}' % text[:end].encode()) if marker else {}


def _by_kind(usage: _Usage) -> dict[str, int]:
    read = usage.prompt_tokens_details or usage.input_tokens_details or _NO_DETAILS
    written = usage.completion_tokens_details or usage.output_tokens_details or _NO_DETAILS
    # Anthropic counts these beside its input tokens, the others within.
    beside = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    thoughts = usage.thoughts_token_count or 0
    return {
        "input": (usage.prompt_tokens or usage.input_tokens or usage.prompt_token_count or 0) + beside,
        "cached": read.cached_tokens or usage.cache_read_input_tokens or usage.cached_content_token_count or 0,
        "cache_write": read.cache_write_tokens or usage.cache_creation_input_tokens or 0,
        "output": (usage.completion_tokens or usage.output_tokens or usage.candidates_token_count or 0) + thoughts,
        "reasoning": written.reasoning_tokens or thoughts,
    }
