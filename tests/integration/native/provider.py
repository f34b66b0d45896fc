"""A provider on loopback that keeps the bytes of each request, and responds with given bytes."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from aiohttp import web

from handler_host.testing.loop_thread import LoopThread


class Seen(NamedTuple):
    """A request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Script:
    """The response to all requests."""

    parts: tuple[bytes, ...] = (b"{}",)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    """Time before each part."""
    stays_open: bool = False
    """The response does not end after the last part."""


class Provider:
    """The provider; set ``script``, read ``seen``."""

    def __init__(self) -> None:
        self.script = Script()
        self.seen: list[Seen] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def run(self) -> Iterator[Provider]:
        with LoopThread() as thread, thread.enter(self._serve()):
            yield self

    @asynccontextmanager
    async def _serve(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=2**28)
        app.router.add_route("POST", "/{path:.*}", self._respond)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            yield
        finally:
            await runner.cleanup()

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(Seen(request.path_qs, request.headers, await request.read()))
        script = self.script
        response = web.StreamResponse(status=script.status, headers=script.headers)
        await response.prepare(request)
        for part in script.parts:
            await asyncio.sleep(script.pause_s)
            await response.write(part)
        if script.stays_open:
            await asyncio.sleep(60)
        return response


def post(url: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
    """Send a request; return status, headers (names in lower case) and body."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return response.status, names, response.read()
    finally:
        connection.close()
