"""Calls of llama.cpp's own HTTP routes, on the loopback port that only this worker uses.

By hand, because an HTTP client costs the worker 4 MB and more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from handler_host.plugin import InvalidInput, NativeResponse, UpstreamError

TIMEOUT_S = 30.0
"""Seconds for one of the routes that generate nothing; each takes about a millisecond."""
_PART = 64 * 1024


class LlamaServer:
    """Routes of one server."""

    def __init__(self, address: str, key: str) -> None:
        host, _, port = address.rpartition("//")[2].rpartition(":")
        self._host = host
        self._port = int(port)
        self._key = key

    async def takes_tools(self) -> bool:
        """Return whether the template of the model has a place for tools; llama.cpp drops them without one."""
        properties = await self._fetch("GET", "/props", b"")
        return bool(properties["chat_template_caps"]["supports_tools"])

    async def tokens(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the tokens of a text, in which control tokens are read as such or stay text."""
        body = {"content": text, "add_special": False, "parse_special": parse_special}
        tokens: list[int] = (await self.post("/tokenize", body))["tokens"]
        return tokens

    async def has_control_tokens(self, text: str) -> bool:
        """Return whether a part of the text is a control token of the model."""
        if not text:
            return False
        return await self.tokens(text, parse_special=True) != await self.tokens(text, parse_special=False)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON of a response. Raises ``InvalidInput`` for messages that the template refuses."""
        return await self._fetch("POST", path, json.dumps(body).encode())

    async def _fetch(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT_S), aclosing(self.relay(path, body, method)) as parts:
            start = await anext(parts)
            assert isinstance(start, NativeResponse)
            content = b"".join([part async for part in parts if isinstance(part, bytes)])
        if start.status != 200:
            words = content[:300].decode(errors="replace")
            if path == "/apply-template":
                raise InvalidInput(f"messages: the template of the model refuses them: {words}", param="messages")
            raise UpstreamError(f"llama.cpp refused {path}: {words}")
        document: dict[str, Any] = json.loads(content)
        return document

    async def relay(self, path: str, body: bytes, method: str = "POST") -> AsyncGenerator[NativeResponse | bytes, None]:
        """Yield a response as a native operation does; llama.cpp stops to generate when the generator is closed."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.writelines((head.encode(), body))
            await writer.drain()
            response = await _read_head(reader)
            yield response
            async for part in _read_body(reader, response.headers):
                yield part
        except (OSError, EOFError, ValueError) as error:
            raise UpstreamError(f"llama.cpp's response broke off: {type(error).__name__}") from error
        finally:
            writer.close()


async def _read_head(reader: asyncio.StreamReader) -> NativeResponse:
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    return NativeResponse(int(status_line.split()[1]), headers)


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    if "chunked" in headers.get("transfer-encoding", ""):
        while size := int(await reader.readline(), 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        return
    missing = int(headers["content-length"])
    while missing:
        part = await reader.readexactly(min(missing, _PART))
        missing -= len(part)
        yield part
