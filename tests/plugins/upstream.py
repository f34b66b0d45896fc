"""A provider on loopback that does what a test says: OpenAI's chat completions as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class Upstream:
    """Answers each request by the next of ``script``; keeps what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.script: list[Callable[[web.Request], Any]] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.left = asyncio.Event()
        """Set when a client has closed its request before the end."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        response: web.StreamResponse = await step(request)
        return response

    def chunks(self, *chunks: dict[str, Any] | str | None, done: bool = True) -> Callable[[web.Request], Any]:
        """A stream of chunks; a text is sent as it is, None waits until the client leaves."""

        async def stream(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            try:
                for item in chunks:
                    if item is None:
                        await asyncio.Event().wait()
                    data = item if isinstance(item, str) else json.dumps(item)
                    await response.write(f"data: {data}\n\n".encode())
                if done:
                    await response.write(b"data: [DONE]\n\n")
            except asyncio.CancelledError:
                self.left.set()
                raise
            return response

        return stream

    def cut(self, *chunks: dict[str, Any]) -> Callable[[web.Request], Any]:
        """A stream whose connection is cut in the middle."""

        async def stream(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for item in chunks:
                await response.write(f"data: {json.dumps(item)}\n\n".encode())
            assert request.transport is not None
            request.transport.abort()
            return response

        return stream

    def status(self, status: int, body: Any = None, **headers: str) -> Callable[[web.Request], Any]:
        """An answer with a status; a text body is a page of a proxy."""

        async def refuse(request: web.Request) -> web.StreamResponse:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            if isinstance(body, str):
                return web.Response(status=status, text=body, content_type="text/html", headers=names)
            error = body or {"message": f"status {status}", "type": "x", "param": None, "code": None}
            return web.json_response({"error": error}, status=status, headers=names)

        return refuse


def chunk(
    text: str | None = None, *, finish: str | None = None, usage: dict[str, int] | None = None, **delta: Any
) -> dict[str, Any]:
    """One chunk as OpenAI sends it."""
    if text is not None:
        delta["content"] = text
    choices = [] if usage is not None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "served-model",
        "choices": choices,
        "usage": usage,
    }


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
WHOLE = (chunk("", role="assistant"), chunk("Hello"), chunk(" you"), chunk(finish="stop"), chunk(usage=USAGE))


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """Run the provider."""
    server = Upstream()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
