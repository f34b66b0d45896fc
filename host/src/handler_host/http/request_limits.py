"""What a client may ask of the host: requests at a time, the size of a body and the time to send it."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import hdrs, web

from handler_host.auth.consumer_auth import Endpoint
from handler_host.config import ServerConfig
from handler_host.plugin.errors import (
    BodyTooLarge,
    InvalidInput,
    RequestTimeout,
    TooManyConnections,
    UnsupportedMediaType,
)

EMPTY_OBJECT = b"{}"
_look_through = msgspec.json.Decoder(msgspec.Raw).decode


class RequestLimits:
    """The limits of ``[server]``, and the count of requests under way."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._under_way = 0

    def counted(self, endpoint: Endpoint) -> Endpoint:
        """Return ``endpoint`` for as many requests at a time as ``server.max_connections``, with all others counted."""
        limit = self._config.max_connections

        async def run(request: web.Request) -> web.StreamResponse:
            if self._under_way >= limit:
                raise TooManyConnections(
                    f"the host has {limit} requests under way (server.max_connections); come again", retry_after=1.0
                )
            self._under_way += 1
            try:
                return await endpoint(request)
            finally:
                self._under_way -= 1

        return run

    async def json_body(self, request: web.Request) -> bytes:
        """Return the body, which is JSON; an empty one is ``{}``.

        Raises ``UnsupportedMediaType``, ``BodyTooLarge``, ``RequestTimeout`` and ``InvalidInput``.
        """
        if not request.can_read_body:
            return EMPTY_OBJECT
        kind = request.headers.get(hdrs.CONTENT_TYPE)
        if kind is not None and kind != "application/json" and not _is_json(kind):
            raise UnsupportedMediaType(f"the body has to be application/json, and is said to be {kind[:100]!r}")
        body = await self.body(request)
        if not body:
            return EMPTY_OBJECT
        check_json(body)
        return body

    async def body(self, request: web.Request) -> bytes:
        """Return the body; raises ``BodyTooLarge`` and ``RequestTimeout``."""
        limit = self._config.max_body
        content = request.content
        if content.is_eof():  # it has arrived with the head, as most do
            body = content.read_nowait()
        else:
            if (request.content_length or 0) > limit:
                raise self._too_large()
            seconds = self._config.body_timeout
            try:
                async with asyncio.timeout(seconds):
                    body = await self._read(request)
            except TimeoutError:
                raise RequestTimeout(f"the body did not arrive within {seconds:g} s (server.body_timeout)") from None
        if len(body) > limit:
            raise self._too_large()
        return body

    async def _read(self, request: web.Request) -> bytes:
        """Read a body of unknown length, and no further than the limit."""
        parts: list[bytes] = []
        size = 0
        while part := await request.content.readany():
            size += len(part)
            if size > self._config.max_body:
                raise self._too_large()
            parts.append(part)
        return b"".join(parts)

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is longer than {self._config.max_body} bytes (server.max_body)")


def _is_json(kind: str) -> bool:
    name = kind.partition(";")[0].strip().lower()
    return name == "application/json" or (name.startswith("application/") and name.endswith("+json"))


def check_json(body: bytes) -> None:
    """Raise ``InvalidInput`` unless ``body`` is JSON; nothing is made of it."""
    try:
        _look_through(body)
        if not body.isascii():
            body.decode()  # the line above looks at the structure only
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(error) from None


def not_json(error: msgspec.DecodeError | UnicodeDecodeError | RecursionError) -> InvalidInput:
    """Return the error for a body that is no JSON."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput(f"the body is no UTF-8 text: {error.reason} at byte {error.start}")
    if isinstance(error, RecursionError):
        return InvalidInput("the body is nested too deeply")
    return InvalidInput(f"the body is no JSON: {str(error).partition(' - at ')[0]}")
