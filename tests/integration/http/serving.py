"""What the HTTP tests share: the real host in this process, real workers, a client, raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from handler_host.config import (
    AdminConfig,
    AuthConfig,
    CatalogConfig,
    Config,
    HandlerPolicy,
    MemoryConfig,
    ServerConfig,
)
from handler_host.config.loader import hash_key
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.server import serving
from tests.support import Control, children_of, within

ADMIN = "the-admin-token"
PARROT = '''
from handler_host.chat import ChatHandler, FinishChunk, RefusalChunk, ToolCallChunk, Usage, UsageChunk
from handler_host.plugin.errors import UpstreamRateLimited

class Handler(ChatHandler):
    """Handler that responds with the text of its request."""

    async def stream(self, request):
        for word in request.last_text().split():
            if word == "BOOM":
                raise RuntimeError("a secret detail")
            if word == "LIMIT":
                raise UpstreamRateLimited("slow down", retry_after=7.0)
            if word == "TOOL":
                yield ToolCallChunk(index=0, id="call_1", name="look", arguments='{"a"')
                yield ToolCallChunk(index=0, arguments=": 1}")
                yield FinishChunk(reason="tool_calls")
            elif word == "MODEL":
                yield str(request.model)
            elif word == "NO":
                yield RefusalChunk(text="I will not")
            else:
                yield word + " "
        yield UsageChunk(usage=Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5))
'''


class Host:
    """The running host, and a client of it."""

    def __init__(self, root: Path, url: str, supervisor: Supervisor, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.supervisor = supervisor
        self.session = session
        self.control = Control(root / "control")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Send a request; gives the answer as an async context manager."""
        if "data" in options:
            options["headers"] = {"Content-Type": "application/json", **options.get("headers", {})}
        return self.session.request(method, self.url + path, **options)

    async def json(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Send a request; return the status and the JSON of the answer."""
        async with self.ask(method, path, **options) as response:
            return response.status, json.loads(await response.read())

    async def admin(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Send a request as an operator."""
        return await self.json(method, f"/admin{path}", headers={"Authorization": f"Bearer {ADMIN}"}, **options)

    async def raw(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes; return status, headers and body of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            head = await within(reader.readuntil(b"\r\n\r\n"))
            status, headers, _ = parsed(head)
            return status, headers, await within(reader.readexactly(int(headers["content-length"])))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def parsed(response: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers (names in lower case) and body."""
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, body


def events(text: str) -> list[tuple[str, Any]]:
    """Return the events of a stream, each with its name and its data, decoded if they are JSON."""
    found: list[tuple[str, Any]] = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line.startswith(("event: ", "data: ")))
        if "data" in fields:
            data = fields["data"]
            found.append((fields.get("event", "message"), data if data == "[DONE]" else json.loads(data)))
    return found


def configured(
    root: Path,
    *,
    server: Mapping[str, Any] | None = None,
    keys: tuple[str, ...] = (),
    admin: str | None = ADMIN,
    policy: Mapping[str, Any] | None = None,
    handlers: Mapping[str, Mapping[str, Any]] | None = None,
    auth: AuthConfig | None = None,
    admin_config: AdminConfig | None = None,
    memory: MemoryConfig | None = None,
    **sections: Any,
) -> Config:
    """Return a configuration for the plugins in ``root`` alone."""
    own = {"puppet": {"control": f"{root}/control"}, **(handlers or {})}
    return Config(
        server=ServerConfig(**{"port": 0, "drain_timeout": 5.0, **(server or {})}),
        auth=auth
        or AuthConfig(api_keys=tuple(map(hash_key, keys)), admin_token=hash_key(admin) if admin is not None else None),
        defaults=HandlerPolicy(**{"preload": (), "stop_grace": 2.0, **(policy or {})}),
        catalog=CatalogConfig(roots=(root,), include_sys_path=False),
        handlers={name: dict(settings) for name, settings in own.items()},
        admin=admin_config or AdminConfig(),
        memory=memory or MemoryConfig(pressure=None),
        **sections,
    )


@contextlib.asynccontextmanager
async def running(root: Path, *, environ: Mapping[str, str] | None = None, **options: Any) -> AsyncIterator[Host]:
    """Run the host with the plugins in ``root``; at its end no process of it may be left."""
    before = set(children_of(os.getpid()))
    config = configured(root, **options)
    async with serving(config, environ) as (supervisor, url), aiohttp.ClientSession() as session:
        try:
            yield Host(root, url, supervisor, session)
        finally:
            closing = asyncio.create_task(supervisor.close())
            await asyncio.sleep(0)
            supervisor.force_shutdown()
            await within(closing)
    left = set(children_of(os.getpid())) - before
    assert not left, f"processes are left: {left}"
