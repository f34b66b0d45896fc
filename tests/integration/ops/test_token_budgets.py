"""Token budgets and token usage over HTTP, with a handler that reports 3 input and 2 output tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import AuthConfig, MemoryConfig
from handler_host.config.loader import hash_key
from tests.integration.http.serving import ADMIN, PARROT, Host, running
from tests.support import install_plugin

OPENAI = "/v1/chat/completions"
MESSAGES = {"messages": [{"role": "user", "content": "hello"}]}
NATIVE_CHAT = "/v1/handlers/parrot/chat"
GEMINI = '''
from handler_host.plugin import NativeResponse, native

class Handler:
    """Speaks Gemini's protocol, and responds with an array of chunks, as without alt=sse."""

    @native("gemini.generate_content")
    async def generate(self, request):
        yield NativeResponse(200, {"content-type": "application/json"})
        yield b'[{"usageMetadata": {"promptTokenCount": 1}},\\n'
        yield b'{"candidates": [], "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}}]'
'''

OPENAI_CHAT = '''
import json
from handler_host.plugin import NativeResponse, native

class Handler:
    """Speaks OpenAI's protocol, and tells the tokens of a stream if the request asks for them."""

    @native("openai.chat")
    async def complete(self, request):
        options = json.loads(request.body).get("stream_options") or {}
        yield NativeResponse(200, {"content-type": "text/event-stream"})
        yield b'data: {"choices": [{"delta": {"content": "hi"}}], "usage": null}\\n\\n'
        if options.get("include_usage"):
            yield b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}\\n\\n'
        yield b"data: %s\\n\\ndata: [DONE]\\n\\n" % json.dumps({"choices": [{"options": options}]}).encode()
'''


def options(root: Path, limits: str) -> dict[str, Any]:
    consumers = f'[consumers.a]\nhash = "{hash_key("key-a")}"\n{limits}\n[consumers.b]\nhash = "{hash_key("key-b")}"\n'
    return {
        "auth": AuthConfig(admin_token=hash_key(ADMIN), consumers=consumers),
        "memory": MemoryConfig(state_file=root / "state" / "memory.json"),
        "handlers": {"parrot": {}},
    }


async def chat(host: Host, key: str, path: str = OPENAI, **more: object) -> tuple[int, Any, str | None]:
    """Send a chat; return status, JSON of a whole response, and Retry-After."""
    body = json.dumps({"model": "parrot", "max_tokens": 10, **MESSAGES, **more})
    headers = {"Authorization": f"Bearer {key}"}
    async with host.ask("POST", path, data=body, headers=headers) as response:
        text = await response.read()
        content = json.loads(text) if response.content_type == "application/json" else text
        return response.status, content, response.headers.get("Retry-After")


async def test_a_budget_holds_over_a_restart_in_every_protocol(tmp_path: Path) -> None:
    install_plugin(tmp_path, "parrot", PARROT)
    given = options(tmp_path, "tokens_per_minute = 10\ntokens_per_day = 1000")
    async with running(tmp_path, **given) as host:
        assert (await chat(host, "key-a"))[0] == 200
        assert (await chat(host, "key-a", stream=True))[0] == 200
        status, content, retry_after = await chat(host, "key-a")
        assert (status, content["error"]["code"]) == (429, "rate_limited")
        assert "10 tokens per minute" in content["error"]["message"]
        assert 1 <= int(retry_after or 0) <= 60
        status, content, retry_after = await chat(host, "key-a", "/v1/messages")
        assert (status, content["type"], content["error"]["type"]) == (429, "error", "rate_limit_error")
        assert retry_after is not None
        status, content, _ = await chat(host, "key-a", "/v1beta/models/parrot:generateContent")
        assert (status, content["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
        # Lists cost no tokens, and other consumers have budgets of their own.
        assert (await host.json("GET", "/v1/models", headers={"Authorization": "Bearer key-a"}))[0] == 200
        assert (await chat(host, "key-b"))[0] == 200
        assert host.supervisor.telemetry.counters.refused == {("a", "tokens"): 3}
    async with running(tmp_path, **given) as host:
        assert (await chat(host, "key-a"))[0] == 429
        assert (await chat(host, "key-b"))[0] == 200
        _, report = await host.admin("GET", "/usage")
        counts = {row["consumer"]: (row["handler"], row["input"], row["output"]) for row in report["usage"]}
        assert counts == {"a": ("parrot", 6, 4), "b": ("parrot", 6, 4)}
        assert report["budgets"] == [
            {
                "consumer": "a",
                "minute_tokens": 10,
                "tokens_per_minute": 10,
                "day_tokens": 10,
                "tokens_per_day": 1000,
            }
        ]
        _, overview = await host.admin("GET", "/overview")
        assert [(row["consumer"], row["output"]) for row in overview["usage"]] == [("a", 4), ("b", 4)]


@pytest.mark.parametrize("streamed", [False, True])
async def test_chats_on_the_hosts_own_route_count(tmp_path: Path, streamed: bool) -> None:
    install_plugin(tmp_path, "parrot", PARROT)
    async with running(tmp_path, **options(tmp_path, "tokens_per_day = 5")) as host:
        headers = {"Authorization": "Bearer key-a", **({"Accept": "text/event-stream"} if streamed else {})}
        for status in (200, 429):
            async with host.ask("POST", NATIVE_CHAT, data=json.dumps(MESSAGES), headers=headers) as response:
                await response.read()
                assert response.status == status


async def test_native_response_that_is_no_event_stream_counts(tmp_path: Path) -> None:
    install_plugin(tmp_path, "parrot", GEMINI, manifest='[operations."gemini.generate_content"]\n')
    async with running(tmp_path, **options(tmp_path, "tokens_per_day = 5")) as host:
        headers = {"Authorization": "Bearer key-a"}
        body = json.dumps({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]})
        path = "/v1beta/models/parrot:streamGenerateContent"
        for status in (200, 429):
            async with host.ask("POST", path, data=body, headers=headers) as response:
                assert (response.status, bool(await response.read())) == (status, True)


async def test_a_negative_count_lowers_no_budget_and_spoils_no_file(tmp_path: Path) -> None:
    """Some servers report -1 for a count that they do not know."""
    install_plugin(tmp_path, "parrot", PARROT.replace("prompt_tokens=3", "prompt_tokens=-9"))
    given = options(tmp_path, "tokens_per_day = 1000")
    async with running(tmp_path, **given) as host:
        for path in (OPENAI, NATIVE_CHAT):
            assert (await chat(host, "key-a", path))[0] == 200
    async with running(tmp_path, **given) as host:
        _, report = await host.admin("GET", "/usage")
        assert [(row["input"], row["output"]) for row in report["usage"]] == [(0, 4)]
        assert [budget["day_tokens"] for budget in report["budgets"]] == [4]


@pytest.mark.parametrize("stream_options", [{}, {"stream_options": None}, {"stream_options": {"other": 1}}])
async def test_a_native_stream_counts_without_the_clients_question(
    tmp_path: Path, stream_options: dict[str, Any]
) -> None:
    """Most clients do not ask for the tokens of a stream of chat completions; a key with a limit needs them."""
    install_plugin(tmp_path, "parrot", OPENAI_CHAT)
    async with running(tmp_path, **options(tmp_path, "tokens_per_minute = 10")) as host:
        assert (await host.admin("POST", "/handlers/parrot/load"))[0] == 200
        status, unlimited, _ = await chat(host, "key-b", stream=True, **stream_options)
        assert (status, b"include_usage" in unlimited) == (200, False)
        status, limited, _ = await chat(host, "key-a", stream=True, **stream_options)
        assert (status, b"include_usage" in limited) == (200, True)
        assert b"completion_tokens" not in limited
        assert (await chat(host, "key-a", stream=True, **stream_options))[0] == 429


async def test_a_native_stream_has_its_tokens_if_the_client_asks(tmp_path: Path) -> None:
    install_plugin(tmp_path, "parrot", OPENAI_CHAT)
    async with running(tmp_path, **options(tmp_path, "tokens_per_minute = 10")) as host:
        assert (await host.admin("POST", "/handlers/parrot/load"))[0] == 200
        asked: dict[str, Any] = {"stream_options": {"include_usage": True}}
        assert b"completion_tokens" in (await chat(host, "key-a", stream=True, **asked))[1]
        assert (await chat(host, "key-a", stream=True))[0] == 429
