"""Request bodies: media type, limits of ``[server]`` on size and time, and the check that they are JSON."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import hdrs, web

from handler_host.config import ServerConfig
from handler_host.http.responses import JSON
from handler_host.plugin.errors import BodyTooLarge, InvalidInput, RequestTimeout, UnsupportedMediaType

EMPTY_OBJECT = b"{}"
_scan = msgspec.json.Decoder(msgspec.Raw).decode


class BodyReader:
    """Reader of request bodies within the limits of ``[server]``."""

    def __init__(self, config: ServerConfig) -> None:
        self._limit_bytes = config.max_body
        self._timeout_s = config.body_timeout

    async def read_json(self, request: web.Request) -> bytes:
        """Return the body as :meth:`read` does; raises ``InvalidInput`` unless it is JSON."""
        body = await self.read(request)
        check_json(body)
        return body

    async def read(self, request: web.Request) -> bytes:
        """Return the body, which the client declares as JSON, for a decoder; ``{}`` for an empty one.

        Raises ``UnsupportedMediaType``, ``BodyTooLarge`` and ``RequestTimeout``.
        """
        if not request.can_read_body:
            return EMPTY_OBJECT
        media_type = request.headers.get(hdrs.CONTENT_TYPE)
        if media_type is not None and media_type != JSON and not _is_json(media_type):
            raise UnsupportedMediaType(f"the body must be application/json, not {media_type[:100]!r}")
        content = request.content
        if content.is_eof():  # the body of most requests arrives with the head
            body = content.read_nowait()
        else:
            if (request.content_length or 0) > self._limit_bytes:
                raise self._too_large()
            try:
                async with asyncio.timeout(self._timeout_s):
                    body = await self._read_chunks(request)
            except TimeoutError:
                raise RequestTimeout(
                    f"the body did not arrive within {self._timeout_s:g} s (server.body_timeout)"
                ) from None
        if len(body) > self._limit_bytes:
            raise self._too_large()
        return body or EMPTY_OBJECT

    async def _read_chunks(self, request: web.Request) -> bytes:
        """Read a body of unknown length up to the limit."""
        chunks: list[bytes] = []
        size_bytes = 0
        while chunk := await request.content.readany():
            size_bytes += len(chunk)
            if size_bytes > self._limit_bytes:
                raise self._too_large()
            chunks.append(chunk)
        return b"".join(chunks)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is longer than {self._limit_bytes} bytes (server.max_body)")


def _is_json(media_type: str) -> bool:
    name = media_type.partition(";")[0].strip().lower()
    return name == JSON or (name.startswith("application/") and name.endswith("+json"))


def check_json(body: bytes) -> None:
    """Raise ``InvalidInput`` unless ``body`` is JSON."""
    try:
        _scan(body)
        if not body.isascii():
            body.decode()  # the scan checks the structure, not the text of strings
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_json(error) from None


def invalid_json(error: msgspec.DecodeError | UnicodeDecodeError | RecursionError) -> InvalidInput:
    """Return the error for a body that is not JSON."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput(f"the body is not UTF-8: {error.reason} at byte {error.start}")
    if isinstance(error, RecursionError):
        return InvalidInput("the body is nested too deeply")
    return InvalidInput(f"the body is not JSON: {str(error).partition(' - at ')[0]}")
