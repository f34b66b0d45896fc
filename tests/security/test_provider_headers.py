"""Response heads of a hostile provider or plugin: nothing in them adds a header, a cookie or a response."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.http.serving import running
from tests.support import install_plugin

HANDLER = '''
import json
from handler_host.chat import ChatHandler
from handler_host.plugin import NativeResponse, native, provider_refusal

class Handler(ChatHandler):
    """Responds with the head that its request has as the last message."""

    async def stream(self, request):
        yield "x"

    @native("openai.chat")
    async def complete(self, request):
        head = json.loads(json.loads(request.payload("m"))["messages"][-1]["content"])
        if head["status"] >= 400:
            raise provider_refusal(NativeResponse(head["status"], head["headers"], b"{}"))
        yield NativeResponse(head["status"], {"content-type": "application/json", **head["headers"]})
        yield b"{}"
'''
HEADERS = {
    "x-ratelimit-kept": "7",
    "x-ratelimit-value": "1\r\nSet-Cookie: a=b",
    "x-ratelimit-name\r\nset-cookie: a=b\r\nx": "1",
    "x-ratelimit-feed": "1\nX-Added: 1",
    "x-ratelimit-null": "1\0",
    "x-ratelimit-space name": "1",
    "x-ratelimit-colon:": "1",
    "x-ratelimit-é": "1",
    "x-request-id": "a\r\nX-Added: 1",
    "content-length": "0",
    "transfer-encoding": "chunked",
    "connection": "close",
    "set-cookie": "a=b",
    "location": "https://evil.example/",
    "access-control-allow-origin": "*",
    "www-authenticate": "Basic",
    "x-handler": "other",
}


STATUSES = {
    200: 200,
    201: 201,
    204: 204,
    304: 304,
    400: 400,
    429: 429,
    500: 502,
    100: 500,
    101: 500,
    0: 500,
    99_999: 502,
}
"""Status of the host for each status of the provider."""


@pytest.mark.parametrize("stream", [False, True])
async def test_a_head_adds_no_header_and_no_response(tmp_path: Path, stream: bool) -> None:
    """All requests use one connection: what is too much would be the next response (204 with a streamed body was)."""
    install_plugin(tmp_path, "rogue", HANDLER, manifest='[operations.chat]\n[operations."openai.chat"]\n')
    async with running(tmp_path) as host:
        for status, expected in STATUSES.items():
            message = json.dumps({"status": status, "headers": HEADERS})
            body = {"model": "rogue", "messages": [{"role": "user", "content": message}], "stream": stream}
            async with host.ask("POST", "/v1/chat/completions", json=body) as response:
                content = await response.read()
                assert response.status == expected
                assert b"HTTP/" not in content
                names = {name.lower() for name in response.headers}
                kept = {"x-ratelimit-kept"} if expected < 400 else set[str]()
                assert {name for name in names if name.startswith("x-ratelimit")} == kept
                assert not names & {
                    "set-cookie",
                    "x-added",
                    "location",
                    "access-control-allow-origin",
                    "www-authenticate",
                }
                assert response.headers["X-Handler"] == "rogue"
