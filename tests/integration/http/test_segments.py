"""Segments: how many writes to the socket a response takes."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.integration.http.serving import PARROT, Host, running
from tests.support import install_plugin, install_puppet

SSE = {"Accept": "text/event-stream", "Content-Type": "application/json"}
CHAT = {"model": "parrot", "messages": [{"role": "user", "content": "one"}]}


pytestmark = pytest.mark.skipif(
    not isinstance(asyncio.get_event_loop_policy(), asyncio.DefaultEventLoopPolicy),
    reason="counts the calls of Python's sockets, which the transports of uvloop do not make",
)


class Writes:
    """Counts the writes to connections that came to one port."""

    def __init__(self, port: int) -> None:
        self.count = 0
        self._port = port

    def __enter__(self) -> Writes:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or function.__name__ not in ("send", "sendmsg"):
            return
        writer = function.__self__
        if isinstance(writer, socket.socket) and writer.family == socket.AF_INET:
            self.count += writer.getsockname()[1] == self._port


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    install_puppet(tmp_path)
    install_plugin(tmp_path, "parrot", PARROT)
    async with running(tmp_path) as host:
        yield host


class TestWholeResponses:
    @pytest.mark.parametrize(
        ("method", "path", "body", "status"),
        [
            ("POST", "/v1/handlers/puppet/echo", {"text": "Hi"}, 200),
            ("POST", "/v1/chat/completions", CHAT, 200),
            ("POST", "/v1/handlers/absent/echo", {}, 404),
            ("GET", "/v1/handlers", None, 200),
        ],
    )
    async def test_one_write(self, host: Host, method: str, path: str, body: Any, status: int) -> None:
        options: dict[str, Any] = {} if body is None else {"json": body}
        await host.json(method, path, **options)
        with Writes(host.port) as writes:
            assert (await host.json(method, path, **options))[0] == status
        assert writes.count == 1


class TestStreams:
    async def test_head_and_first_event_share_one(self, host: Host) -> None:
        data = json.dumps({"steps": [""]})
        await host.json("POST", "/v1/handlers/puppet/echo", json={})
        with Writes(host.port) as writes:
            async with host.ask("POST", "/v1/handlers/puppet/stream", data=data, headers=SSE) as response:
                assert await response.read()
        # Head and chunk, `end`, and the end of the body.
        assert writes.count == 3
