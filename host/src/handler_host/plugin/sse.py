"""Read the event streams of providers, by the WHATWG standard (html.spec.whatwg.org, section 9.2.6).

Handlers read a provider's raw bytes with :func:`read_documents` instead of an SDK's own reader: those split lines at
other characters, end at a comment, or take an event without data for one that is not JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from handler_host.plugin.errors import UpstreamError
from handler_host.plugin.life import note_bytes
from handler_host.plugin.provider_errors import error_from_document, error_from_text

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""Longest event, or JSON document, of a provider's stream in bytes."""
END_TIMEOUT_S = 0.5
"""Seconds in which a provider must end its response after ``[DONE]``, for the connection to be kept."""
DONE = "[DONE]"
"""Data of the last event in OpenAI's protocol."""

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")
_KEEP_ALIVE = frozenset({"heartbeat", "keep-alive", "keepalive", "ping"})
"""Names of events that have no content in any protocol."""
_DOCUMENT_NAMES = frozenset({"", "message"})
"""Names of events whose data is a document in every protocol."""
_BLANK = b" \t\r\n"
_FIELD = re.compile(rb"\s*(?::|$|(?:data|event|id|retry)(?::|$))")
"""A line that the standard gives a meaning."""
_EVENT_START = re.compile(rb":|(?:data|event|id|retry)(?:[:\r\n]|$)")
"""The first bytes of an event stream."""
_START_BYTES = 64 * 1024
"""Bytes of a body that is not a stream in which its words are looked for."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event: its data, its name if it has one, and the last ID of the stream."""

    data: str
    name: str = ""
    id: str = ""


class SseDecoder:
    """Decoder of the bytes of an event stream, however they are split into reads.

    It follows the standard, with two exceptions for what servers really send: the last event needs no empty line after
    it, and events are bounded by ``max_event_bytes``. Its time is linear in the length of the stream.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._line: list[bytes] = []
        """The start of a line whose end has not come."""
        self._after_cr = False
        """The last read ended with a carriage return: a line feed next belongs to it."""
        self._is_first_line = True
        self._data: list[str] = []
        self._name = ""
        self._id = ""
        self._bytes = 0
        """Length of the event so far."""

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Return the events that ``data`` completes; raises ``UpstreamError`` for one that is too long."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        events: list[ServerSentEvent] = []
        start = 0
        for match in _LINE_END.finditer(data):
            line = data[start : match.start()]
            start = match.end()
            if self._line:
                self._line.append(line)
                line = b"".join(self._line)
                self._line.clear()
            self._add_line(line, events)
        if start < len(data):
            self._line.append(data[start:])
            self._count(len(data) - start)
        self._after_cr = data.endswith(b"\r")
        return events

    def close(self) -> list[ServerSentEvent]:
        """Return the event that the end of the stream completes, if there is one."""
        events: list[ServerSentEvent] = []
        if self._line:
            line = b"".join(self._line)
            self._line.clear()
            self._add_line(line, events)
        self._end_event(events)
        return events

    def _add_line(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            self._end_event(events)
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._count(len(value))
            self._data.append(_text(value))
        elif field == b"event":
            self._name = _text(value)
        elif field == b"id" and b"\0" not in value:
            self._id = _text(value)

    def _end_event(self, events: list[ServerSentEvent]) -> None:
        if self._data:
            events.append(ServerSentEvent("\n".join(self._data), self._name, self._id))
            self._data = []
        self._name = ""
        self._bytes = 0

    def _count(self, length: int) -> None:
        self._bytes += length
        if self._bytes > self._max_event_bytes:
            raise _too_long(self._max_event_bytes)


def _text(value: bytes) -> str:
    return value.removeprefix(b" ").decode(errors="replace")


def _too_long(limit: int) -> UpstreamError:
    return UpstreamError(f"the provider sent an event of more than {limit} bytes")


async def read_documents(
    chunks: AsyncIterable[bytes], content_type: str = "", *, max_event_bytes: int = MAX_EVENT_BYTES
) -> AsyncGenerator[Any, None]:
    """Yield the JSON documents of a provider's response to a request for a stream.

    ``chunks`` are the bytes of the body, uncompressed. The body decides its form, not ``content_type``, because servers
    declare a wrong one: an event stream, lines of JSON, or one JSON document; the items of a document that is an array
    come one by one. Events without data are skipped, and ``[DONE]`` is the end.

    Raises ``UpstreamError`` for an event named ``error``, and for data that is not JSON, with its first words.
    """
    body = ResponseBody(chunks)
    match await body.first_byte():
        case b"{" | b"[":
            documents: AsyncGenerator[Any, None] = _read_json(body, content_type, max_event_bytes)
        case b"<":
            raise error_from_text(await body.start(), content_type)
        case _:
            documents = _read_events(body, content_type, max_event_bytes)
    async with aclosing(documents) as items:
        async for document in items:
            yield document


class ResponseBody:
    """Iterator over the bytes of a response, with a look at the first ones."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(chunks)
        self._start: list[bytes] = []

    def __aiter__(self) -> ResponseBody:
        return self

    async def __anext__(self) -> bytes:
        if self._start:
            return self._start.pop(0)
        chunk = await anext(self._chunks)
        note_bytes()
        return chunk

    async def first_byte(self) -> bytes:
        """Return the first byte that is not white space, or an empty string."""
        start: list[bytes] = []
        first = b""
        while not first:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                break
            note_bytes()
            start.append(chunk)
            text = b"".join(start) if len(start) <= len(_BOM) else chunk
            if text not in (_BOM[:1], _BOM[:2]):
                first = text.removeprefix(_BOM).lstrip(_BLANK)[:1]
        self._start = start
        return first

    async def has_event_start(self) -> bool:
        """Return whether the response begins like an event stream; to be called after :meth:`first_byte`."""
        while len(text := b"".join(self._start).removeprefix(_BOM).lstrip(_BLANK)) < len(b"retry:"):
            chunk = await anext(self._chunks, None)
            if chunk is None:
                break
            note_bytes()
            self._start.append(chunk)
        return _EVENT_START.match(text) is not None

    async def start(self) -> bytes:
        """Return the first bytes, enough to find the title of a page."""
        body = bytearray()
        async for chunk in self:
            body += chunk
            if len(body) >= _START_BYTES:
                break
        return bytes(body[:_START_BYTES])


async def _read_events(body: ResponseBody, content_type: str, max_event_bytes: int) -> AsyncGenerator[Any, None]:
    decoder = SseDecoder(max_event_bytes)
    start = bytearray()
    """The first bytes, until an event has come: they may be a text that is not an event stream."""
    has_events = False
    async for chunk in body:
        if not has_events and len(start) < _START_BYTES:
            start += chunk
        for event in decoder.feed(chunk):
            has_events = True
            if _is_done(event.data):
                await _drain(body)
                return
            for document in _documents(event, content_type):
                yield document
    for event in decoder.close():
        has_events = True
        if not _is_done(event.data):
            for document in _documents(event, content_type):
                yield document
    if not has_events and not all(_FIELD.match(line) for line in _LINE_END.split(start.removeprefix(_BOM))):
        raise error_from_text(bytes(start), content_type)


def _is_done(data: str) -> bool:
    """Return whether data is ``[DONE]``; some servers write it in small letters, or as a JSON string."""
    return data[: len(DONE) + 1].removeprefix('"')[: len(DONE)].upper() == DONE


async def _drain(body: ResponseBody) -> None:
    """Read the rest of a response: a connection whose response was not read to its end cannot be used again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(END_TIMEOUT_S):
            async for _ in body:
                pass


def _documents(event: ServerSentEvent, content_type: str) -> list[Any]:
    if event.name in _KEEP_ALIVE or not event.data or event.data.isspace():
        return []
    try:
        document = decode_json(event.data)
    except ValueError as error:
        if event.name == "error":
            raise error_from_text(event.data, content_type) from error
        if event.name not in _DOCUMENT_NAMES and not event.data.lstrip().startswith(("{", "[")):
            return []  # a text for people, such as a place in a queue
        raise _not_json(event.data, content_type) from error
    if event.name == "error":
        raise error_from_document(document, content_type=content_type)
    return [] if document is None else [document]


async def _read_json(body: ResponseBody, content_type: str, max_event_bytes: int) -> AsyncGenerator[Any, None]:
    """Yield the lines of a body of JSON lines as they come, or the items of one document at its end."""
    pending: list[bytes] = []
    size = 0
    is_lines = False
    is_document = False
    async for chunk in body:
        size += len(chunk)
        if size > max_event_bytes:
            raise _too_long(max_event_bytes)
        pending.append(chunk)
        if is_document or b"\n" not in chunk:
            continue
        *lines, rest = b"".join(pending).split(b"\n")
        if not is_lines:
            # The first line decides: a document that is written over many lines has only a part of it there.
            is_lines = _is_json(lines[0])
            is_document = not is_lines
        if is_lines:
            pending, size = [rest], len(rest)
            for line in lines:
                for document in _json_items(line, content_type):
                    yield document
    for document in _json_items(b"".join(pending), content_type):
        yield document


def _is_json(line: bytes) -> bool:
    try:
        decode_json(_text(line.removeprefix(_BOM)))
    except ValueError:
        return False
    return True


def _json_items(line: bytes, content_type: str) -> list[Any]:
    text = _text(line.removeprefix(_BOM)).strip()
    if not text:
        return []
    try:
        document = decode_json(text)
    except ValueError as error:
        raise _not_json(text, content_type) from error
    return document if isinstance(document, list) else [document]


def decode_json(text: str) -> Any:
    """Return a JSON document; raises ``ValueError``.

    It may have what standard JSON has not: ``NaN``, halves of surrogate pairs, control characters in strings.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        try:
            return json.loads(text, strict=False)
        except RecursionError as error:
            raise ValueError("the document is nested too deeply") from error


def _not_json(text: str, content_type: str) -> UpstreamError:
    start = text[:200].encode(errors="replace").decode()
    return UpstreamError(f"the provider sent a chunk that is not JSON ({content_type or 'no content type'}): {start}")
