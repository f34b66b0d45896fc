"""A provider on loopback that does what a test says, in three protocols, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from types import ModuleType
from typing import Any

from aiohttp import web

from handler_host.testing import anthropic_protocol, gemini_protocol, openai_protocol
from handler_host.testing.loop_thread import Background
from handler_host.testing.script import Asked, ProtocolName, Raw, Received, Reply, Silence, Status, Step

PROTOCOLS: Mapping[ProtocolName, ModuleType] = {
    "openai": openai_protocol,
    "anthropic": anthropic_protocol,
    "gemini": gemini_protocol,
}
MAX_BODY = 256 * 1024**2


class Upstream:
    """Answers each request by the next step of ``script``, the last one for ever; keeps what it was asked.

    ``key`` is what clients have to bring; None takes every key, and none. Without
    ``record`` it keeps no requests, as a long measurement needs it.
    """

    def __init__(self, *, key: str | None = None, record: bool = True) -> None:
        self.key = key
        self._record = record
        self.url = ""
        """Its address, without a path."""
        self.script: list[Step] = [Reply()]
        self.requests: list[Received] = []
        self.connections: set[int] = set()
        """The client's port of each connection that a request came by; ``reset`` keeps them."""
        self._asked: Future[Received] = Future()
        self._left: Future[None] = Future()
        self._closing = False

    @property
    def asked(self) -> Future[Received]:
        """The first request since the last ``reset``; done when it has come."""
        return self._asked

    @property
    def left(self) -> Future[None]:
        """Done when a client, of any request since the last ``reset``, has left before it had its whole answer.

        ``left.result(30)`` waits for it, ``await asyncio.wrap_future(left)`` in an asynchronous test.
        """
        return self._left

    @property
    def last(self) -> Received:
        """The last request."""
        return self.requests[-1]

    def base_url(self, protocol: ProtocolName) -> str:
        """Return what the protocol's own SDK takes for a base URL: OpenAI's ends in ``/v1``."""
        return f"{self.url}/v1" if protocol == "openai" else self.url

    def say(self, *steps: Step) -> None:
        """Set what the next requests get, the last one for ever."""
        self.script = list(steps)

    def reset(self) -> None:
        """Forget what was asked and what was to be said."""
        self.script = [Reply()]
        self.requests = []
        self._asked = Future()
        self._left = Future()

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[Upstream]:
        """Serve on the running event loop; 0 takes a free port."""
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._openai),
                web.post("/v1/messages", self._anthropic),
                web.post("/v1/messages/count_tokens", self._anthropic_count),
                web.post("/{version:v1|v1beta}/models/{model:[^:]+}:{verb}", self._gemini),
            ]
        )
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            self._closing = True
            await runner.cleanup()

    @contextmanager
    def running(self) -> Iterator[Upstream]:
        """Serve in a thread of its own, for tests that are not asynchronous."""
        with Background() as background, background.entered(self.serving()):
            yield self

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._response(request, "openai", body, openai_protocol.read(body))

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._response(request, "anthropic", body, anthropic_protocol.read(body))

    async def _anthropic_count(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return self._count(request, "anthropic", body, anthropic_protocol.read(body))

    async def _gemini(self, request: web.Request) -> web.StreamResponse:
        body, verb = await request.json(), request.match_info["verb"]
        model = request.match_info["model"]
        if verb == "countTokens":
            inner = body.get("generateContentRequest", body)
            return self._count(request, "gemini", body, gemini_protocol.read(inner, model, streamed=False))
        if verb not in ("generateContent", "streamGenerateContent"):
            raise web.HTTPNotFound
        streamed = verb == "streamGenerateContent"
        return await self._response(request, "gemini", body, gemini_protocol.read(body, model, streamed))

    def _receive(self, request: web.Request, name: ProtocolName, body: dict[str, Any], asked: Asked) -> Received:
        key = PROTOCOLS[name].key_of(request.headers) or (request.query.get("key") if name == "gemini" else None)
        port = request.transport.get_extra_info("peername")[1] if request.transport is not None else 0
        received = Received(name, request.path_qs, request.headers, key, body, asked, port)
        if self._record:
            self.requests.append(received)
            self.connections.add(port)
            if not self._asked.done():
                self._asked.set_result(received)
        return received

    def _count(self, request: web.Request, name: ProtocolName, body: dict[str, Any], asked: Asked) -> web.Response:
        received = self._receive(request, name, body, asked)
        if self.key is not None and received.key != self.key:
            return _refusal(PROTOCOLS[name], Status(401, "the key is wrong"))
        tokens = sum(len(turn.text.split()) for turn in asked.turns)
        return web.json_response(PROTOCOLS[name].counted(tokens))

    async def _response(
        self, request: web.Request, name: ProtocolName, body: dict[str, Any], asked: Asked
    ) -> web.StreamResponse:
        received = self._receive(request, name, body, asked)
        protocol = PROTOCOLS[name]
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if self.key is not None and received.key != self.key:
            step = Status(401, "the key is wrong")
        try:
            match step(received) if callable(step) else step:
                case Reply() as reply:
                    answer = _stream if asked.streamed else _whole
                    return await answer(request, protocol, reply, asked)
                case Status() as status:
                    return _refusal(protocol, status)
                case Raw() as raw:
                    return await _raw(request, raw)
                case Silence():
                    await asyncio.Event().wait()
            raise AssertionError("an event that nobody sets has been set")
        except (asyncio.CancelledError, ConnectionError):
            if not self._closing:
                for left in (self._left, received.left):
                    if not left.done():
                        left.set_result(None)
            raise


def _refusal(protocol: ModuleType, status: Status) -> web.Response:
    headers = {} if status.retry_after is None else {"Retry-After": f"{status.retry_after:g}"}
    if status.html is not None:
        return web.Response(status=status.status, text=status.html, content_type="text/html", headers=headers)
    return web.json_response(protocol.error(status), status=status.status, headers=headers)


async def _raw(request: web.Request, raw: Raw) -> web.StreamResponse:
    response = web.StreamResponse(status=raw.status, headers={"Content-Type": raw.content_type})
    await response.prepare(request)
    for part in raw.parts:
        await response.write(part)
    if raw.held:
        await asyncio.Event().wait()
    return response


async def _whole(request: web.Request, protocol: ModuleType, reply: Reply, asked: Asked) -> web.StreamResponse:
    """Answer at once."""
    await asyncio.sleep(reply.pause * len(reply.chunks))
    if reply.broken == "error":
        return _refusal(protocol, Status(500, "overheated"))
    data = json.dumps(protocol.whole(reply, asked), ensure_ascii=False).encode()
    half = data[: len(data) // 2]
    if reply.broken == "malformed":
        return web.Response(body=half, content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(data))})
    await response.prepare(request)
    await response.write(half)
    if not await _broken_off(request, reply):
        await response.write(data[len(half) :])
    return response


async def _stream(request: web.Request, protocol: ModuleType, reply: Reply, asked: Asked) -> web.StreamResponse:
    """Answer piece by piece."""
    framing = _framing(request, protocol)
    response = web.StreamResponse(headers={"Content-Type": framing.content_type})
    await response.prepare(request)
    for data in protocol.begin(reply, asked):
        await response.write(framing.frame(data))
    for text in reply.chunks if reply.broken is None else reply.chunks[: reply.after]:
        if reply.pause:
            await asyncio.sleep(reply.pause)
        await response.write(framing.frame(protocol.chunk(reply, text)))
    if await _broken_off(request, reply):
        return response
    for data in _last(protocol, reply, asked):
        await response.write(framing.frame(data))
    if reply.broken != "malformed":
        await response.write(framing.end)
    return response


def _last(protocol: ModuleType, reply: Reply, asked: Asked) -> Iterable[bytes]:
    """Return what comes after the last piece of the text."""
    if reply.broken == "malformed":
        return [protocol.malformed(reply)]
    if reply.broken == "error":
        return [protocol.failed(reply)]
    found: Iterable[bytes] = protocol.truncated(reply) if reply.broken == "truncated" else protocol.end(reply, asked)
    return found


async def _broken_off(request: web.Request, reply: Reply) -> bool:
    """Let the connection stand still, or cut it (then True), if that is what the script says."""
    if reply.broken == "stalled":
        await asyncio.Event().wait()
    if reply.broken == "cut":
        assert request.transport is not None
        request.transport.abort()
        return True
    return False


class _Framing:
    """How a stream's pieces follow one another. OpenAI's and Anthropic's bring their own events."""

    content_type = "text/event-stream"
    end = b""

    def frame(self, data: bytes) -> bytes:
        return data


class _GeminiEvents(_Framing):
    """Gemini's with ``alt=sse``."""

    def frame(self, data: bytes) -> bytes:
        return b"data: " + data + b"\r\n\r\n"


class _GeminiArray(_Framing):
    """Gemini's without: one JSON array, which comes bit by bit."""

    content_type = "application/json"
    end = b"]"

    def __init__(self) -> None:
        self._before = b"["

    def frame(self, data: bytes) -> bytes:
        before, self._before = self._before, b",\r\n"
        return before + data


def _framing(request: web.Request, protocol: ModuleType) -> _Framing:
    if protocol is not gemini_protocol:
        return _Framing()
    return _GeminiEvents() if request.query.get("alt") == "sse" else _GeminiArray()
