"""Presets reach the handler by every way that a request takes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.http.serving import running
from tests.support import install_plugin

ECHO = '''
from handler_host.chat import ChatHandler
from handler_host.plugin import operation
from handler_host.plugin.errors import InvalidInput, UpstreamError

class Handler(ChatHandler):
    """Shows its request."""

    async def stream(self, request):
        text = request.last_text()
        if text == "refuse":
            place = f"messages[{len(request.messages) - 1}]"
            raise InvalidInput(f"{place}.content: not that", param=f"{place}.content")
        if text == "fail" and request.temperature is None:
            raise UpstreamError("down")
        yield f"{len(request.messages)} {request.temperature} {request.messages[0].content}"
'''
SHOWN = "2 0.5 Be brief."


async def test_every_way(tmp_path: Path) -> None:
    install_plugin(tmp_path, "echo", ECHO)
    handlers = {
        "echo": {"fallback": ("brief",)},
        "brief": {"plugin": "echo", "preset": {"system": "Be brief.", "temperature": 0.5}},
    }
    async with running(tmp_path, handlers=handlers) as host:

        def body(model: str, text: str) -> str:
            return json.dumps({"model": model, "messages": [{"role": "user", "content": text}]})

        async def chat(model: str, text: str) -> str:
            _, response = await host.json("POST", "/v1/chat/completions", data=body(model, text))
            content: str = response["choices"][0]["message"]["content"]
            return content

        assert await chat("echo", "hello") == "1 None hello"
        assert await chat("brief", "hello") == SHOWN
        assert await chat("echo", "fail") == SHOWN, "as a fallback"
        _, answer = await host.json(
            "POST", "/v1/handlers/brief/chat", data='{"messages": [{"role": "user", "content": "x"}]}'
        )
        assert answer["content"] == [{"type": "text", "text": SHOWN}]
        for streamed in (False, True):
            refused = json.loads(body("brief", "refuse")) | {"stream": streamed}
            status, error = await host.json("POST", "/v1/chat/completions", data=json.dumps(refused))
            assert (status, error["error"]["param"]) == (400, "messages[0].content")
            assert error["error"]["message"].startswith("messages[0].content: not that")
