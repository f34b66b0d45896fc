"""Request bodies: media type, limits on size, time and structure, decompression, and the check that they are JSON."""

from __future__ import annotations

import asyncio
import codecs
import itertools
import re
from collections.abc import Callable, Generator
from typing import TypeVar

import msgspec
from aiohttp import hdrs, web

from handler_host.config import ServerConfig
from handler_host.http import request_context
from handler_host.http.body_budget import BodyBudget, BodyShare
from handler_host.http.body_work import BodyWork
from handler_host.http.content_encoding import decompress, parse_encoding
from handler_host.http.json_structure import MAX_VALUES, check_in_steps, check_structure
from handler_host.http.responses import JSON
from handler_host.plugin.errors import BadRequest, BodyTooLarge, InvalidInput, RequestTimeout, UnsupportedMediaType

EMPTY_OBJECT = b"{}"
UNCOUNTED_BYTES = 16 * 1024
"""Size up to which a body does not count: the limit of requests bounds these."""
OPTIONS_BYTES = 64 * 1024
"""Longest body of routes that take a few options: admin tasks, signing in."""
STEADY_BYTES = 4 * 1024 * 1024
"""Bytes for which ``server.body_timeout`` is the time: a longer body has it for each such part."""
INLINE_VALUES = 2_000
"""Values up to which the loop itself decodes a body (below 10 ms with the translation of any protocol)."""
SCAN_BYTES = 1024 * 1024
"""Size up to which the loop checks that a body is JSON, or decodes it (below 10 ms).

The worker checks longer ones, a thread decodes them, and the loop searches them in parts of this size.
"""
MATCHES_PER_STEP = 200
"""Halves of surrogate pairs, or 100 other escapes each, to find before the loop runs others (1 to 3 ms)."""
MAX_MATCH_BYTES = 64
"""Most bytes of a match that :func:`has_match` finds across the end of a part."""

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_scan = msgspec.json.Decoder(msgspec.Raw).decode
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Compiled with the first body that has half of a surrogate pair: it costs the start of every host 0.7 ms.
_HALF = rb"u[dD][89a-fA-F][0-9a-fA-F]{2}"
_PAIR = rb"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_KEPT = rb"(?:" + _PAIR + rb"|(?!" + _HALF + rb").)[^\\]{0,100}+"
_ESCAPES = rb"(?s)\\(?:" + _KEPT + rb"(?:\\" + _KEPT + rb"){0,99}|(" + _HALF + rb"))"
"""Up to 100 escapes that stay, with the text behind them, or half of a pair: one match for each took 0.4 s for 1 MB.

The group is not possessive: Python 3.11.2 (Debian 12) ends such a match too late (python/cpython#106052).
"""
_REPLACEMENT = bytearray(rb"\ufffd")
"""As long as half of a pair, which it replaces in place."""


class BodyReader:
    """Reader of request bodies within the limits of ``[server]``.

    ``memory_limit`` returns the memory limit of the host; a share of it is the limit of all bodies together.
    """

    def __init__(self, config: ServerConfig, memory_limit: Callable[[], int] | None = None) -> None:
        self._limit_bytes = config.max_body
        self._timeout_s = config.body_timeout
        self._budget = BodyBudget(config, memory_limit)
        self._work = BodyWork()

    async def decode(self, request: web.Request, decode: Callable[[bytes], Result]) -> Result:
        """Return what ``decode`` makes of the body; a body of many values, or a long one, is decoded in a thread.

        Raises what :meth:`read` and ``decode`` raise.
        """
        return await self.decode_data(await self.read(request), decode)

    async def decode_data(self, body: bytes, decode: Callable[[bytes], Result]) -> Result:
        """Return what ``decode`` makes of a body that has been read, as :meth:`decode` does."""
        if len(body) <= INLINE_VALUES:
            return decode(body)
        if len(body) <= SCAN_BYTES and body.count(b",") + body.count(b"{") <= INLINE_VALUES:
            return await self._work.run_in_turn(decode, body)
        return await self._work.run_in_thread(decode, body)

    async def read_options(self, request: web.Request) -> bytes:
        """Return a body of a few options, which is JSON; the limit on its size is that of a form."""
        body = await self._read(request, max_values=None, limit_bytes=OPTIONS_BYTES)
        check_json(body)
        return body

    async def read_json(self, request: web.Request) -> bytes:
        """Return the body as :meth:`read` does, with any number of values; raises ``InvalidInput`` unless it is JSON.

        The check of a long body is left to the code that decodes it.
        """
        body = await self._read(request, max_values=None)
        await _check_text(body)
        if len(body) <= SCAN_BYTES:
            await self._run(check_json, body, len(body))
        return body

    async def read(self, request: web.Request, *, any_media_type: bool = False) -> bytes:
        """Return the body, which the client declares as JSON, for a decoder; ``{}`` for an empty one.

        ``any_media_type`` is for clients that do not declare it: ``curl -d`` sends the media type of a form. Raises
        ``UnsupportedMediaType``, ``BodyTooLarge``, ``RequestTimeout``, ``MemoryBudget``, and ``InvalidInput`` for one
        that is nested too deeply.
        """
        return await self._read(request, max_values=MAX_VALUES, any_media_type=any_media_type)

    async def _read(
        self,
        request: web.Request,
        *,
        max_values: int | None,
        limit_bytes: int | None = None,
        any_media_type: bool = False,
    ) -> bytes:
        limit_bytes = min(self._limit_bytes, limit_bytes or self._limit_bytes)
        if not request.can_read_body:
            return EMPTY_OBJECT
        if not any_media_type:
            _check_media_type(request)
        _check_transfer_coding(request)
        encoding = None
        if hdrs.CONTENT_ENCODING in request.headers:
            encoding = parse_encoding(", ".join(request.headers.getall(hdrs.CONTENT_ENCODING)))
            if request.content.total_compressed_bytes is not None:
                encoding = None  # an application around this one has a server that decompresses itself
        content = request.content
        if content.is_eof() and encoding is None:  # the body of most requests arrives with the head
            body = content.read_nowait()
            if len(body) > limit_bytes:
                raise _too_large(limit_bytes)
            if len(body) > UNCOUNTED_BYTES:
                self._budget.share_of(request_context.current.get()).add(len(body))
        else:
            if (request.content_length or 0) > limit_bytes:
                raise _too_large(limit_bytes)
            if hdrs.EXPECT in request.headers:
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            share = self._budget.share_of(request_context.current.get())
            body = await self._receive(request, limit_bytes, share)
            if encoding is not None and body:
                body = await self._work.run_in_thread(lambda body: decompress(body, encoding, limit_bytes), body)
                share.add(len(body))
        await self._check_structure(body, max_values)
        body = _without_mark(body)
        if await has_match(_SURROGATE, body):
            body = await self._work.run_in_steps(_replace_lone_surrogates(body))
        return body or EMPTY_OBJECT

    async def _check_structure(self, body: bytes, max_values: int | None) -> None:
        if len(body) <= UNCOUNTED_BYTES:
            check_structure(body, max_values=max_values)
        else:
            await self._work.run_in_steps(check_in_steps(body, max_values=max_values))

    async def _run(self, function: Callable[[Argument], Result], argument: Argument, size_bytes: int) -> Result:
        """Return ``function(argument)``, called where ``size_bytes`` allows it: its time grows with them."""
        if size_bytes <= UNCOUNTED_BYTES:
            return function(argument)
        run = self._work.run_in_turn if size_bytes <= SCAN_BYTES else self._work.run_in_thread
        return await run(function, argument)

    async def _receive(self, request: web.Request, limit_bytes: int, share: BodyShare) -> bytes:
        """Receive a body of unknown length up to the limit."""
        chunks: list[bytes] = []
        size_bytes = 0
        started_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(started_at + self._timeout_s) as timeout:
                while chunk := await request.content.readany():
                    size_bytes += len(chunk)
                    if size_bytes > limit_bytes:
                        raise _too_large(limit_bytes)
                    share.add(len(chunk))
                    chunks.append(chunk)
                    ends_at = started_at + self._timeout_s * (1 + size_bytes // STEADY_BYTES)
                    if ends_at != timeout.when():  # a tenth of the cost of a chunk
                        timeout.reschedule(ends_at)
        except TimeoutError:
            raise RequestTimeout(
                f"the body did not arrive within {self._timeout_s:g} s (server.body_timeout)"
            ) from None
        except web.RequestPayloadError as error:
            raise BadRequest(f"the body cannot be read: {error}") from None
        return await self._run(b"".join, chunks, size_bytes)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    key = "" if limit_bytes == OPTIONS_BYTES else " (server.max_body)"
    return BodyTooLarge(f"the body is longer than {limit_bytes} bytes{key}")


def _check_media_type(request: web.Request) -> None:
    media_type = request.headers.get(hdrs.CONTENT_TYPE)
    if media_type is not None and media_type != JSON and not _is_json(media_type):
        raise UnsupportedMediaType(f"the body must be application/json, not {media_type[:100]!r}")


def _is_json(media_type: str) -> bool:
    name = media_type.partition(";")[0].strip().lower()
    return name == JSON or (name.startswith("application/") and name.endswith("+json"))


def _check_transfer_coding(request: web.Request) -> None:
    """Raise ``UnsupportedMediaType`` for a transfer coding other than chunks: the server decodes nothing else."""
    coding = request.headers.get(hdrs.TRANSFER_ENCODING, "chunked")
    if coding.strip().lower() != "chunked":
        raise UnsupportedMediaType(
            f"Transfer-Encoding: {coding[:100]!r} is unsupported; send chunked, and compress by Content-Encoding"
        )


def _without_mark(body: bytes) -> bytes:
    """Return the body without the byte order mark of UTF-8, which some clients send; UTF-16 is ``InvalidInput``."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise InvalidInput("the body is not UTF-8: it starts as UTF-16 or UTF-32; send it as UTF-8")
    return body.removeprefix(codecs.BOM_UTF8)


def _replace_lone_surrogates(body: bytes) -> Generator[None, None, bytes]:
    """Return the body with U+FFFD for each half of a surrogate pair, with a part of its escapes at each step.

    JSON allows them, and clients that cut a text within an emoji send them; no text in UTF-8 can have one.
    """
    text = bytearray(body)
    matches = re.finditer(_ESCAPES, body)
    while some := list(itertools.islice(matches, MATCHES_PER_STEP)):
        for match in some:
            if match[1] is not None:
                start, end = match.span()
                text[start:end] = _REPLACEMENT
        yield
    return bytes(text)


async def has_match(pattern: re.Pattern[bytes], body: bytes) -> bool:
    """Return whether a body has a match, of at most :data:`MAX_MATCH_BYTES`; the loop runs others between its parts."""
    for start in range(0, len(body), SCAN_BYTES):
        if start:
            await asyncio.sleep(0)
        if pattern.search(body, start, start + SCAN_BYTES + MAX_MATCH_BYTES) is not None:
            return True
    return False


async def _check_text(body: bytes) -> None:
    """Raise ``InvalidInput`` unless ``body`` is UTF-8: scanning JSON checks the structure, not the text of strings."""
    if body.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), SCAN_BYTES):
        if start:
            await asyncio.sleep(0)
        end = start + SCAN_BYTES
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(body[start:end], final=end >= len(body))
        except UnicodeDecodeError as error:
            error.start += start - pending
            raise invalid_json(error) from None


def check_json(body: bytes) -> None:
    """Raise ``InvalidInput`` unless ``body`` is JSON."""
    try:
        _scan(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_json(error) from None


def invalid_json(error: msgspec.DecodeError | UnicodeDecodeError | RecursionError) -> InvalidInput:
    """Return the error for a body that is not JSON."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput(f"the body is not UTF-8: {error.reason} at byte {error.start}")
    if isinstance(error, RecursionError):
        return InvalidInput("the body is nested too deeply")
    return InvalidInput(f"the body is not JSON: {str(error).partition(' - at ')[0]}")
