"""Rights of consumers: a handler that a key may not use does not exist for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import AuthConfig
from handler_host.config.loader import hash_key
from tests.integration.http.serving import ADMIN, Host, running
from tests.support import install_plugin

CHAT = '''
from collections.abc import AsyncIterator

from handler_host.chat import ChatHandler, ChatRequest
from handler_host.plugin.errors import UpstreamError

class Handler(ChatHandler):
    """Fails if it is configured to."""

    async def stream(self, request: ChatRequest) -> AsyncIterator[str]:
        if self.context.config.get("fails"):
            raise UpstreamError("as configured")
        yield self.context.handler
'''
KEY = {"Authorization": "Bearer key-a"}
ANTHROPIC = {"anthropic-version": "2023-06-01"}
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    """Run a host whose only key may use ``mine`` and ``missing``, which is not installed."""
    for name in ("mine", "secret", "other"):
        install_plugin(tmp_path, name, CHAT)
    file = tmp_path / "consumers.toml"
    file.write_text(f'[consumers.a]\nhash = "{hash_key("key-a")}"\nhandlers = ["mine", "missing"]\n')
    handlers = {"mine": {"fails": True, "fallback": ("secret", "other")}, "secret": {"fails": True}}
    auth = AuthConfig(admin_token=hash_key(ADMIN), consumers_file=file)
    async with running(tmp_path, handlers=handlers, auth=auth) as host:
        await host.supervisor.load("mine")
        yield host


async def answer(
    host: Host, method: str, path: str, headers: Mapping[str, str], body: Any
) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and JSON of a response, without what differs between any two of them."""
    options: dict[str, Any] = {} if body is None else {"json": body}
    async with host.ask(method, path, headers={**KEY, "X-Request-ID": "same", **headers}, **options) as response:
        kept = {name: value for name, value in response.headers.items() if name not in ("Date", "Content-Length")}
        return response.status, kept, json.loads(await response.read())


class TestAnotherHandler:
    @pytest.mark.parametrize(
        ("method", "path", "headers", "body"),
        [
            ("GET", "/v1/handlers/NAME", {}, None),
            ("POST", "/v1/handlers/NAME/chat", {}, {"messages": MESSAGES}),
            ("POST", "/v1/handlers/NAME/chat", {"Accept": "text/event-stream"}, {"messages": MESSAGES}),
            ("POST", "/v1/handlers/NAME/nonsense", {}, {}),
            ("GET", "/v1/models/NAME", {}, None),
            ("GET", "/v1/models/NAME/model", {}, None),
            ("GET", "/v1/models/NAME", ANTHROPIC, None),
            ("GET", "/v1beta/models/NAME", {}, None),
            ("POST", "/v1/chat/completions", {}, {"model": "NAME", "messages": MESSAGES}),
            ("POST", "/v1/chat/completions", {}, {"model": "NAME", "messages": MESSAGES, "stream": True}),
            ("POST", "/v1/responses", {}, {"model": "NAME", "input": "Hi"}),
            ("POST", "/v1/messages", ANTHROPIC, {"model": "NAME", "max_tokens": 9, "messages": MESSAGES}),
            ("POST", "/v1/messages/count_tokens", ANTHROPIC, {"model": "NAME", "messages": MESSAGES}),
            ("POST", "/v1beta/models/NAME:generateContent", {}, {"contents": [{"parts": [{"text": "Hi"}]}]}),
            ("POST", "/v1beta/models/NAME:countTokens", {}, {"contents": [{"parts": [{"text": "Hi"}]}]}),
        ],
    )
    async def test_same_answer_as_for_an_unknown_one(
        self, host: Host, method: str, path: str, headers: dict[str, str], body: Any
    ) -> None:
        responses = []
        for name in ("secret", "absent"):  # of one length
            text = json.dumps([path, body]).replace("NAME", name)
            own_path, own_body = json.loads(text)
            status, kept, response = await answer(host, method, own_path, headers, own_body)
            assert status == 404
            responses.append(json.dumps([status, kept, response]).replace(name, "NAME"))
            if name == "absent":
                assert "secret" not in responses[-1]
                assert "other" not in responses[-1]
        assert responses[0] == responses[1]

    async def test_counts_as_refused(self, host: Host) -> None:
        await answer(host, "POST", "/v1/handlers/secret/chat", {}, {})
        assert host.supervisor.telemetry.counters.refused == {("a", "handler"): 1}

    @pytest.mark.parametrize("path", ["/v1/handlers", "/v1/models", "/v1beta/models", "/openapi.json"])
    async def test_not_in_lists(self, host: Host, path: str) -> None:
        await host.supervisor.load("secret")
        _, _, response = await answer(host, "GET", path, {}, None)
        text = json.dumps(response)
        assert "mine" in text
        assert "secret" not in text

    async def test_not_named_for_an_allowed_one_that_is_missing(self, host: Host) -> None:
        status, _, response = await answer(host, "POST", "/v1/handlers/missing/chat", {}, {"messages": MESSAGES})
        assert (status, response["error"]["code"]) == (404, "unknown_handler")
        assert "mine" in response["error"]["message"]
        assert "secret" not in response["error"]["message"]


class TestFallback:
    async def test_is_neither_tried_nor_named(self, host: Host) -> None:
        body = {"model": "mine", "messages": MESSAGES}
        status, headers, response = await answer(host, "POST", "/v1/chat/completions", {}, body)
        assert (status, headers["X-Handler"]) == (502, "mine")
        assert response["error"]["message"] == "as configured"
        assert "details" not in response["error"]
        assert host.supervisor.status("other").state == "cold"
