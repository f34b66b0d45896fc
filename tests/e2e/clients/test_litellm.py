"""LiteLLM, in gpt_d, as a client of the host's own three APIs; behind these gpt_a and a scripted provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from handler_host.chat import TextChunk, Usage
from handler_host.plugin.errors import (
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
)
from handler_host.testing import (
    Reply,
    ScriptedToolCall,
    Status,
    Upstream,
    WorkerUnderTest,
    host_under_test,
    worker_under_test,
)

KEY = "a-consumer-key-of-some-length"
APIS = {"openai": "/v1", "anthropic": "", "gemini": "/v1beta"}
"""The host's APIs as LiteLLM knows them, and where it looks for each."""
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    },
}


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[WorkerUnderTest, Upstream]]:
    with Upstream().run() as upstream:
        config = f'[handlers.gpt_a]\nbase_url = "{upstream.base_url("openai")}"\nretries = 0\n'
        with host_under_test(config, environ={"HANDLER_HOST_API_KEYS": KEY}) as host:
            settings = {"api_base": {api: f"{host.url}{path}" for api, path in APIS.items()}, "retries": 0}
            secrets = {f"{api.upper()}_API_KEY": KEY for api in APIS}
            wrong = {"OPENAI_API_KEY_2": "wrong"}
            settings["deployments"] = [
                {
                    "name": "locked-out",
                    "model": "openai/gpt_a",
                    "secret": "OPENAI_API_KEY_2",
                    "api_base": f"{host.url}/v1",
                }
            ]
            with worker_under_test("gpt_d", settings, secrets={**secrets, **wrong}) as worker:
                yield worker, upstream


@pytest.fixture
def client(running: tuple[WorkerUnderTest, Upstream]) -> WorkerUnderTest:
    return running[0]


@pytest.fixture
def provider(running: tuple[WorkerUnderTest, Upstream]) -> Upstream:
    running[1].reset()
    return running[1]


@pytest.mark.parametrize("api", APIS)
def test_it_chats_whole_and_streamed(client: WorkerUnderTest, provider: Upstream, api: str) -> None:
    response = client.chat("Hi", model=f"{api}/gpt_a", max_tokens=9)
    assert (response.text, response.finish_reason) == ("Hello you", "stop")
    assert response.usage == Usage(prompt_tokens=5, completion_tokens=2, total_tokens=7)
    assert (provider.last_request.parsed.turns[-1].text, provider.last_request.parsed.max_tokens) == ("Hi", 9)
    chunks = list(client.chat_chunks("Hi", model=f"{api}/gpt_a"))
    assert [chunk.text for chunk in chunks if isinstance(chunk, TextChunk)] == ["Hello", " you"]


@pytest.mark.parametrize("api", APIS)
def test_a_tool_is_called_and_its_result_goes_back(client: WorkerUnderTest, provider: Upstream, api: str) -> None:
    look = ScriptedToolCall("look", {"at": "the sun"}, chunk_count=3)
    provider.respond_with(Reply((), finish="tool_calls", calls=(look,)), Reply(("It is bright.",)))
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is there?"}]
    response = client.chat(messages, model=f"{api}/gpt_a", tools=[TOOL])
    assert response.finish_reason == "tool_calls"
    (call,) = response.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": "the sun"})
    assert provider.last_request.parsed.tools == ("look",)
    messages += [
        {"role": "assistant", "content": msgspec.to_builtins(response.content)},
        {"role": "tool", "tool_call_id": call.id, "content": "a star"},
    ]
    assert client.chat(messages, model=f"{api}/gpt_a", tools=[TOOL]).text == "It is bright."
    user, assistant, tool = provider.last_request.parsed.turns
    assert (user.text, assistant.calls[0].arguments, tool.role) == ("What is there?", {"at": "the sun"}, "tool")
    assert "a star" in tool.text


@pytest.mark.parametrize("api", APIS)
def test_errors_keep_their_meaning_through_the_host(client: WorkerUnderTest, provider: Upstream, api: str) -> None:
    asked = {**ASK, "model": f"{api}/gpt_a"}
    provider.respond_with(Status(429, "slow down", retry_after=37))
    limited = client.error_of("chat", asked)
    assert (type(limited), limited.retry_after) == (UpstreamRateLimited, 37)
    provider.respond_with(Status(503, "closed"))
    assert type(client.error_of("chat", asked)) is UpstreamOverloaded
    provider.respond_with(Status(400, "the moon is not full"))
    refused = client.error_of("chat", asked)
    assert type(refused) is UpstreamBadRequest
    assert "the moon is not full" in refused.message
    unknown = client.error_of("chat", {**ASK, "model": f"{api}/gpt_z"})
    assert type(unknown) is UpstreamBadRequest
    assert "gpt_z" in unknown.message
    provider.respond_with(Reply().with_fault("cut", after=1))
    assert isinstance(client.error_of("chat", asked), UpstreamError)


@pytest.mark.parametrize("api", APIS)
def test_when_the_client_leaves_it_is_told_all_the_way(client: WorkerUnderTest, provider: Upstream, api: str) -> None:
    provider.respond_with(Reply().with_fault("stalled", after=1))
    chunks = client.chat_chunks("Hi", model=f"{api}/gpt_a")
    assert next(chunk for chunk in chunks if isinstance(chunk, TextChunk)).text == "Hello"
    chunks.close()
    provider.disconnected.result(30)


def test_a_wrong_key_of_the_host_is_a_wrong_key(client: WorkerUnderTest, provider: Upstream) -> None:
    assert type(client.error_of("chat", {**ASK, "model": "locked-out"})) is UpstreamAuth
    assert provider.requests == []
