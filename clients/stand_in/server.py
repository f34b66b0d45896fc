"""A provider on loopback in OpenAI's, Anthropic's and Google's protocols, which records each request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from clients.stand_in import anthropic, gemini, openai_chat, openai_responses
from clients.stand_in.model import SIGNATURE, TOO_LONG, Question, Reply, decide
from clients.stand_in.rules import violation
from handler_host.testing.loop_thread import LoopThread

MAX_BODY = 64 * 1024**2
SLOW_CHUNKS = 300
SLOW_PAUSE_S = 0.2


class ProviderProtocol(Protocol):
    """The provider's side of a protocol: the functions of its module."""

    def read(self, body: dict[str, Any], /) -> Question:
        """Return the parts of a request that the model reads."""

    def whole(self, body: dict[str, Any], reply: Reply, /) -> dict[str, Any]:
        """Return a response that is not streamed."""

    def stream(self, body: dict[str, Any], reply: Reply, /) -> Iterator[bytes]:
        """Yield the events of a streamed response."""

    def error(self, message: str, status: int, /) -> dict[str, Any]:
        """Return the body of an error."""


CHATS: Mapping[str, ProviderProtocol] = {
    "openai": openai_chat,
    "responses": openai_responses,
    "anthropic": anthropic,
    "gemini": gemini,
}
"""The protocols by the name that recorded requests have."""


@dataclass
class Recorded:
    """A request that reached the provider."""

    protocol: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    reply: Reply
    is_signed: bool = False
    """Whether the response has signed or encrypted reasoning, which the client must send back."""
    is_cancelled: bool = False
    """Whether the host closed the connection before the end of the response."""


class StandIn:
    """A provider that plays the scripted model; ``requests`` has what reached it."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Recorded] = []

    @contextmanager
    def run(self) -> Iterator[StandIn]:
        """Serve on a free port, in a thread of its own."""
        with LoopThread() as thread, thread.enter(self._serve()):
            yield self

    @asynccontextmanager
    async def _serve(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/v1/chat/completions", self._route("openai"))
        app.router.add_post("/v1/responses", self._route("responses"))
        app.router.add_post("/v1/messages", self._route("anthropic"))
        app.router.add_post("/v1/messages/count_tokens", self._count("input_tokens"))
        app.router.add_post("/v1/embeddings", self._embed)
        app.router.add_post("/v1beta/models/{model:[^:]+}:countTokens", self._count("totalTokens"))
        app.router.add_post("/v1beta/models/{model:[^:]+}:{verb}", self._route("gemini"))
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()

    def _route(self, name: str) -> Any:
        protocol = CHATS[name]

        async def respond(request: web.Request) -> web.StreamResponse:
            body = await request.json()
            question = protocol.read(body)
            streamed = question.streamed or request.match_info.get("verb") == "streamGenerateContent"
            reply = decide(question)
            is_signed = SIGNATURE in json.dumps(protocol.whole(body, reply))
            recorded = Recorded(name, request.path_qs, dict(request.headers), body, reply, is_signed)
            self.requests.append(recorded)
            task = question.task[0]
            if broken := violation(name, body):
                return web.json_response(protocol.error(f"the stand-in refuses it: {broken}", 400), status=400)
            if task == "fail":
                return web.json_response(protocol.error(TOO_LONG, 400), status=400)
            if task == "retry" and (status := self._busy_status(recorded)):
                headers = {"Retry-After": "1"}
                return web.json_response(protocol.error("try again", status), status=status, headers=headers)
            try:
                if not streamed:
                    await asyncio.sleep(SLOW_CHUNKS * SLOW_PAUSE_S if task == "slow" else 0)
                    return web.json_response(protocol.whole(body, reply))
                response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
                await response.prepare(request)
                if task == "slow":
                    reply = Reply("word " * SLOW_CHUNKS)
                for event in protocol.stream(body, reply):
                    await response.write(event)
                    if task == "slow":
                        await asyncio.sleep(SLOW_PAUSE_S)
            except (asyncio.CancelledError, ConnectionError):
                recorded.is_cancelled = True
                raise
            return response

        return respond

    def _busy_status(self, recorded: Recorded) -> int | None:
        """Return the status of a provider that is busy for the first two requests, which titles have apart."""
        has_tools = "tools" in recorded.body
        count = sum(request.protocol in CHATS and ("tools" in request.body) == has_tools for request in self.requests)
        return {1: 429, 2: 529 if recorded.protocol == "anthropic" else 503}.get(count)

    def _count(self, key: str) -> Any:
        async def count(request: web.Request) -> web.Response:
            self.requests.append(Recorded("count", request.path, dict(request.headers), await request.json(), Reply()))
            return web.json_response({key: 42})

        return count

    async def _embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(Recorded("embeddings", request.path, dict(request.headers), body, Reply()))
        vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
        usage = {"prompt_tokens": 2, "total_tokens": 2}
        return web.json_response({"object": "list", "model": body["model"], "data": [vector], "usage": usage})
