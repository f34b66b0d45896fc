"""A provider on loopback that responds by a script, in three protocols, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

from aiohttp import web

from handler_host.testing import anthropic_protocol, gemini_protocol, openai_protocol, openai_responses_protocol
from handler_host.testing.loop_thread import LoopThread
from handler_host.testing.script import ParsedRequest, ProtocolName, Raw, RecordedRequest, Reply, Silence, Status, Step


class ProviderProtocol(Protocol):
    """The provider's side of a protocol: the functions of its module."""

    def read_key(self, headers: Mapping[str, str], /) -> str | None:
        """Return the key of a request."""

    def whole(self, reply: Reply, request: ParsedRequest, /) -> dict[str, Any]:
        """Return a response that is not streamed."""

    def stream_start(self, reply: Reply, /) -> Iterator[bytes]:
        """Yield the data before the first chunk of text."""

    def stream_text(self, reply: Reply, text: str, /) -> bytes:
        """Return the data of a chunk of text."""

    def stream_end(self, reply: Reply, request: ParsedRequest, /) -> Iterator[bytes]:
        """Yield the data after the last chunk of text."""

    def stream_truncated(self) -> Iterator[bytes]:
        """Yield the end of a stream that was cut off by a well-behaved proxy."""

    def stream_malformed(self) -> bytes:
        """Return half a document."""

    def stream_error(self) -> bytes:
        """Return an error in the middle of a stream."""

    def error_body(self, status: Status, /) -> dict[str, Any]:
        """Return the body of a refusal."""


PROTOCOLS: Mapping[ProtocolName, ProviderProtocol] = {
    "openai": openai_protocol,
    "anthropic": anthropic_protocol,
    "gemini": gemini_protocol,
}
MAX_BODY = 256 * 1024**2


class Upstream:
    """Responds to each request with the next step of ``script``, the last one forever; records the requests.

    Args:
        key: The key that clients must send; None accepts every key, and none.
        record: Whether requests are kept. Long measurements switch it off.
    """

    def __init__(self, *, key: str | None = None, record: bool = True) -> None:
        self.key = key
        self._record = record
        self.url = ""
        """Its address, without a path."""
        self.script: list[Step] = [Reply()]
        self.requests: list[RecordedRequest] = []
        self.connections: set[int] = set()
        """The client's port of each connection with a request; ``reset`` keeps them."""
        self._first_request: Future[RecordedRequest] = Future()
        self._disconnected: Future[None] = Future()
        self._closing = False

    @property
    def first_request(self) -> Future[RecordedRequest]:
        """The first request since the last ``reset``; done when it has come."""
        return self._first_request

    @property
    def disconnected(self) -> Future[None]:
        """Done when any client since the last ``reset`` has disconnected before it had its whole response.

        ``disconnected.result(30)`` waits for it, ``await asyncio.wrap_future(disconnected)`` in an asynchronous test.
        """
        return self._disconnected

    @property
    def last_request(self) -> RecordedRequest:
        """The last request."""
        return self.requests[-1]

    def base_url(self, protocol: ProtocolName) -> str:
        """Return the base URL for the protocol's own SDK: OpenAI's ends in ``/v1``."""
        return f"{self.url}/v1" if protocol == "openai" else self.url

    def respond_with(self, *steps: Step) -> None:
        """Set the steps for the next requests, the last one for all further ones."""
        self.script = list(steps)

    def reset(self) -> None:
        """Forget the script and the requests."""
        self.script = [Reply()]
        self.requests = []
        self._first_request = Future()
        self._disconnected = Future()

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[Upstream]:
        """Serve on the running event loop; port 0 chooses a free one."""
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._openai),
                web.post("/v1/responses", self._openai_responses),
                web.post("/v1/responses/input_tokens", self._openai_count),
                web.post("/v1/embeddings", self._openai_embeddings),
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
    def run(self) -> Iterator[Upstream]:
        """Serve in a thread of its own, for tests that are not asynchronous."""
        with LoopThread() as thread, thread.enter(self.serve()):
            yield self

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._respond(request, "openai", body, openai_protocol.parse_request(body))

    async def _openai_responses(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        parsed = openai_responses_protocol.parse_request(body)
        return await self._respond(request, "openai", body, parsed, protocol=openai_responses_protocol)

    async def _openai_count(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        parsed = openai_responses_protocol.parse_request(body)
        document = openai_responses_protocol.token_count(_words(parsed))
        return await self._respond(request, "openai", body, parsed, document)

    async def _openai_embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        parsed = openai_protocol.parse_embeddings(body)
        return await self._respond(request, "openai", body, parsed, openai_protocol.embeddings(parsed))

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._respond(request, "anthropic", body, anthropic_protocol.parse_request(body))

    async def _anthropic_count(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        parsed = anthropic_protocol.parse_request(body)
        return await self._respond(request, "anthropic", body, parsed, anthropic_protocol.token_count(_words(parsed)))

    async def _gemini(self, request: web.Request) -> web.StreamResponse:
        body, verb = await request.json(), request.match_info["verb"]
        model = request.match_info["model"]
        document = None
        match verb:
            case "generateContent" | "streamGenerateContent":
                parsed = gemini_protocol.parse_request(body, model, streamed=verb == "streamGenerateContent")
            case "countTokens":
                inner = body.get("generateContentRequest", body)
                parsed = gemini_protocol.parse_request(inner, model, streamed=False)
                document = gemini_protocol.token_count(_words(parsed))
            case "embedContent" | "batchEmbedContents":
                parsed = gemini_protocol.parse_embeddings(body, model)
                document = gemini_protocol.embeddings(parsed, batch=verb == "batchEmbedContents")
            case _:
                raise web.HTTPNotFound
        return await self._respond(request, "gemini", body, parsed, document)

    async def _record_request(
        self, request: web.Request, name: ProtocolName, body: dict[str, Any], parsed: ParsedRequest
    ) -> RecordedRequest:
        key = PROTOCOLS[name].read_key(request.headers) or (request.query.get("key") if name == "gemini" else None)
        port = request.transport.get_extra_info("peername")[1] if request.transport is not None else 0
        content = await request.read()
        recorded = RecordedRequest(name, request.path_qs, request.headers, key, body, parsed, port, content=content)
        if self._record:
            self.requests.append(recorded)
            self.connections.add(port)
            if not self._first_request.done():
                self._first_request.set_result(recorded)
        return recorded

    async def _respond(
        self,
        request: web.Request,
        name: ProtocolName,
        body: dict[str, Any],
        parsed: ParsedRequest,
        document: dict[str, Any] | None = None,
        *,
        protocol: ProviderProtocol | None = None,
    ) -> web.StreamResponse:
        """Respond with the next step; ``document`` is the response of a route without text, in place of a ``Reply``."""
        recorded = await self._record_request(request, name, body, parsed)
        protocol = protocol or PROTOCOLS[name]
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if self.key is not None and recorded.key != self.key:
            step = Status(401, "the key is wrong")
        try:
            match step(recorded) if callable(step) else step:
                case Reply() if document is not None:
                    return web.json_response(document)
                case Reply() as reply:
                    send = _send_stream if parsed.streamed else _send_whole
                    return await send(request, protocol, reply, parsed)
                case Status() as status:
                    return _refuse(protocol, status)
                case Raw() as raw:
                    return await _send_raw(request, raw)
                case Silence():
                    await asyncio.Event().wait()
            raise AssertionError("an event was set that nothing sets")
        except (asyncio.CancelledError, ConnectionError):
            if not self._closing:
                for disconnected in (self._disconnected, recorded.disconnected):
                    if not disconnected.done():
                        disconnected.set_result(None)
            raise


def _words(parsed: ParsedRequest) -> int:
    """Return the number of words of a request, which the stand-in takes for its tokens."""
    return sum(len(turn.text.split()) for turn in parsed.turns)


def _refuse(protocol: ProviderProtocol, status: Status) -> web.Response:
    headers = {} if status.retry_after is None else {"Retry-After": f"{status.retry_after:g}"}
    if status.html is not None:
        return web.Response(status=status.status, text=status.html, content_type="text/html", headers=headers)
    return web.json_response(protocol.error_body(status), status=status.status, headers=headers)


async def _send_raw(request: web.Request, raw: Raw) -> web.StreamResponse:
    response = web.StreamResponse(status=raw.status, headers={**raw.headers, "Content-Type": raw.content_type})
    await response.prepare(request)
    for part in raw.parts:
        await response.write(part)
    if raw.stays_open:
        await asyncio.Event().wait()
    return response


async def _send_whole(
    request: web.Request, protocol: ProviderProtocol, reply: Reply, parsed: ParsedRequest
) -> web.StreamResponse:
    await asyncio.sleep(reply.pause * len(reply.chunks))
    if reply.fault == "error":
        return _refuse(protocol, Status(500, "overheated"))
    data = json.dumps(protocol.whole(reply, parsed), ensure_ascii=False).encode()
    half = data[: len(data) // 2]
    if reply.fault == "malformed":
        return web.Response(body=half, content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(data))})
    await response.prepare(request)
    await response.write(half)
    if not await _interrupted(request, reply):
        await response.write(data[len(half) :])
    return response


async def _send_stream(
    request: web.Request, protocol: ProviderProtocol, reply: Reply, parsed: ParsedRequest
) -> web.StreamResponse:
    framing = _framing(request, protocol)
    response = web.StreamResponse(headers={"Content-Type": framing.content_type})
    await response.prepare(request)
    for data in protocol.stream_start(reply):
        await response.write(framing.frame(data))
    for text in reply.chunks if reply.fault is None else reply.chunks[: reply.chunks_before_fault]:
        if reply.pause:
            await asyncio.sleep(reply.pause)
        await response.write(framing.frame(protocol.stream_text(reply, text)))
    if await _interrupted(request, reply):
        return response
    for data in _stream_end(protocol, reply, parsed):
        await response.write(framing.frame(data))
    if reply.fault != "malformed":
        await response.write(framing.end)
    return response


def _stream_end(protocol: ProviderProtocol, reply: Reply, parsed: ParsedRequest) -> Iterable[bytes]:
    """Return the data after the last chunk of text."""
    match reply.fault:
        case "malformed":
            return [protocol.stream_malformed()]
        case "error":
            return [protocol.stream_error()]
        case "truncated":
            return protocol.stream_truncated()
        case _:
            return protocol.stream_end(reply, parsed)


async def _interrupted(request: web.Request, reply: Reply) -> bool:
    """Stall the connection, or cut it and return True, if the script demands it."""
    if reply.fault == "stalled":
        await asyncio.Event().wait()
    if reply.fault == "cut":
        assert request.transport is not None
        request.transport.abort()
        return True
    return False


class _Framing:
    """The form of a stream. OpenAI's and Anthropic's data are whole events already."""

    content_type = "text/event-stream"
    end = b""

    def frame(self, data: bytes) -> bytes:
        return data


class _GeminiEvents(_Framing):
    """Gemini's events, with ``alt=sse``."""

    def frame(self, data: bytes) -> bytes:
        return b"data: " + data + b"\r\n\r\n"


class _GeminiArray(_Framing):
    """Gemini's JSON array, without ``alt=sse``."""

    content_type = "application/json"
    end = b"]"

    def __init__(self) -> None:
        self._before = b"["

    def frame(self, data: bytes) -> bytes:
        before, self._before = self._before, b",\r\n"
        return before + data


def _framing(request: web.Request, protocol: ProviderProtocol) -> _Framing:
    if protocol is not gemini_protocol:
        return _Framing()
    return _GeminiEvents() if request.query.get("alt") == "sse" else _GeminiArray()
