"""Anthropic's SDKs, for Python and for Node, as clients of a host that runs as users run it: its own process.

Behind ``gpt_a`` and ``gpt_b`` is the scripted upstream, so that tools and failures are certain; ``gpt_e`` has its
own model. ``gpt_b`` gets requests as they came, ``translated_b`` is the same plugin with translated ones.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest

from handler_host.chat import accumulate
from handler_host.plugin.errors import UpstreamAuth, UpstreamBadRequest
from handler_host.testing import (
    HostUnderTest,
    RecordedRequest,
    Reply,
    ScriptedToolCall,
    Status,
    Upstream,
    host_under_test,
    worker_under_test,
)

KEY = "a-consumer-key-of-some-length"
QUESTION: Any = [{"role": "user", "content": "Hello!"}]
TOOLS: Any = [{"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}]
CONFIG = """\
[handlers.gpt_a]
base_url = "{openai}"
model = "served-model"
retries = 0
[handlers.gpt_b]
base_url = "{anthropic}"
model = "served-model"
retries = 0
[handlers.translated_b]
plugin = "gpt_b"
native = false
base_url = "{anthropic}"
model = "served-model"
retries = 0
"""
TRANSLATED = ["gpt_a", "translated_b"]
HANDLERS = [*TRANSLATED, "gpt_b"]
REFUSED = {"gpt_a": "inference_geo", "translated_b": "inference_geo", "gpt_b": "container"}
"""A field that the host refuses: it cannot translate the one; the other refers to state at the provider."""


def answer(received: RecordedRequest) -> Reply | Status:
    """Reply as the model's name demands, and call a tool if the request forces a call."""
    asked = received.parsed
    if asked.model == "limited":
        return Status(429, "slow down", retry_after=37)
    if asked.model == "broken":
        return Reply().with_fault("error")
    if asked.tool_choice == "required":
        return Reply((), finish="tool_calls", calls=(ScriptedToolCall("look", {"at": "x"}),))
    if asked.turns[-1].role == "tool":
        return Reply((f"I see {asked.turns[-1].text}",))
    return Reply()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream().run() as provider:
        provider.respond_with(answer)
        yield provider


@pytest.fixture(scope="module")
def host(upstream: Upstream) -> Iterator[HostUnderTest]:
    config = CONFIG.format(openai=upstream.base_url("openai"), anthropic=upstream.base_url("anthropic"))
    with host_under_test(config, environ={"HANDLER_HOST_API_KEYS": KEY}) as running:
        yield running


@pytest.fixture
def client(host: HostUnderTest) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=host.url, api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


def content_text(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


# A native response has the client's own name of the model in place of the provider's.
@pytest.mark.parametrize(("model", "shown"), [*((name, "served-model") for name in TRANSLATED), ("gpt_b", "gpt_b")])
def test_it_chats_with_any_handler_streamed_and_not(
    client: anthropic.Anthropic, upstream: Upstream, model: str, shown: str
) -> None:
    whole = client.messages.create(model=model, max_tokens=64, messages=QUESTION, system="Be brief.")
    assert upstream.last_request.parsed.system == "Be brief."
    with client.messages.stream(model=model, max_tokens=64, messages=QUESTION) as stream:
        texts = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert texts == ["Hello", " you"]
    for message in (whole, streamed):
        assert content_text(message) == "Hello you"
        assert (message.model, message.stop_reason) == (shown, "end_turn")
        assert (message.usage.input_tokens, message.usage.output_tokens) == (5, 2)
    received = upstream.last_request.parsed
    assert (received.model, received.max_tokens) == ("served-model", 64)


def test_it_chats_with_a_local_model(client: anthropic.Anthropic) -> None:
    """Whose text nobody foresees: both ways give the same, in more than one piece."""
    question: Any = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    ask = {"model": "gpt_e", "max_tokens": 16, "messages": question, "extra_body": {"temperature": 0}}
    client.messages.create(**ask)  # from now on, the prompt is in the model's cache, which the usage counts
    whole = client.messages.create(**ask)
    assert content_text(whole)
    assert whole.stop_reason in ("end_turn", "max_tokens")
    assert whole.usage.output_tokens > 0
    with client.messages.stream(**ask) as stream:
        texts = list(stream.text_stream)
        assert stream.get_final_message().usage == whole.usage
    assert "".join(texts) == content_text(whole)
    assert len(texts) > 3


@pytest.mark.parametrize("model", HANDLERS)
def test_a_tool_is_called_and_its_result_goes_back(client: anthropic.Anthropic, upstream: Upstream, model: str) -> None:
    ask: Any = {"model": model, "max_tokens": 64, "tools": TOOLS}
    with client.messages.stream(**ask, messages=QUESTION, tool_choice={"type": "any"}) as stream:
        streamed = stream.get_final_message()
    whole = client.messages.create(**ask, messages=QUESTION, tool_choice={"type": "any"})
    for message in (whole, streamed):
        (call,) = message.content
        assert isinstance(call, anthropic.types.ToolUseBlock)
        assert (call.type, call.name, call.input, message.stop_reason) == ("tool_use", "look", {"at": "x"}, "tool_use")
    (call,) = streamed.content
    assert isinstance(call, anthropic.types.ToolUseBlock)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "a cat"}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": streamed.content},
        {"role": "user", "content": [result]},
    ]
    assert content_text(client.messages.create(**ask, messages=messages)) == "I see a cat"
    assert upstream.last_request.parsed.tools == ("look",)


@pytest.mark.parametrize("model", HANDLERS)
def test_errors_become_the_sdks_own_exceptions(client: anthropic.Anthropic, model: str) -> None:
    def ask(**changes: Any) -> None:
        client.messages.create(**{"model": model, "max_tokens": 64, "messages": QUESTION, **changes})

    with pytest.raises(anthropic.NotFoundError) as missing:
        ask(model="nobody")
    assert missing.value.error_code == "model_not_found"
    with pytest.raises(anthropic.BadRequestError) as unsupported:
        ask(extra_body={REFUSED[model]: "any"})
    assert REFUSED[model] in unsupported.value.message
    assert unsupported.value.request_id is not None
    with pytest.raises(anthropic.RateLimitError) as limited:
        ask(model=f"{model}/limited")
    assert limited.value.response.headers["retry-after"] == "37"
    assert limited.value.type == "rate_limit_error"
    assert "slow down" in limited.value.message
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with (
        pytest.raises(anthropic.APIStatusError) as broken,
        client.messages.stream(model=f"{model}/broken", max_tokens=64, messages=QUESTION) as stream,
    ):
        stream.get_final_message()
    assert broken.value.type == "api_error"
    if model in TRANSLATED:
        assert broken.value.error_code == "upstream_error"
    else:
        error = {"type": "api_error", "message": "overheated"}
        assert broken.value.body == {"type": "error", "error": error}  # as the provider sent it


def test_tokens_are_counted_by_who_can(client: anthropic.Anthropic) -> None:
    messages: Any = [{"role": "user", "content": "one two three"}]
    assert client.messages.count_tokens(model="gpt_b", messages=messages).input_tokens == 3
    assert client.messages.count_tokens(model="gpt_a", messages=messages).input_tokens == 3
    with pytest.raises(anthropic.NotFoundError) as raised:
        client.messages.count_tokens(model="gpt_d", messages=messages)
    assert raised.value.error_code == "unknown_operation"


def test_models_are_the_handlers_that_can_chat(client: anthropic.Anthropic) -> None:
    assert {"gpt_a", "gpt_b", "gpt_e"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("gpt_b").display_name == "GPT B: Anthropic"


async def test_a_client_that_leaves_closes_the_providers_stream(host: HostUnderTest, upstream: Upstream) -> None:
    upstream.reset()
    upstream.respond_with(Reply().with_fault("stalled"))
    try:
        async with (
            anthropic.AsyncAnthropic(base_url=host.url, api_key=KEY, max_retries=0, timeout=60) as client,
            client.messages.stream(model="gpt_b", max_tokens=9, messages=QUESTION) as stream,
        ):
            async for text in stream.text_stream:
                assert text == "Hello"
                break
        async with asyncio.timeout(30):
            await asyncio.wrap_future(upstream.disconnected)
    finally:
        upstream.respond_with(answer)


def test_gpt_b_itself_can_be_the_client_of_a_host(host: HostUnderTest) -> None:
    settings = {"base_url": host.url, "model": "gpt_e", "retries": 0}
    request = {"messages": QUESTION}
    with worker_under_test("gpt_b", settings, secrets={"ANTHROPIC_API_KEY": KEY}) as worker:
        response = worker.chat(QUESTION, max_tokens=8, temperature=0)
        assert response.text
        assert response.usage is not None
        assert response.usage.completion_tokens > 0
        assert accumulate(worker.chat_chunks(QUESTION, max_tokens=8, temperature=0)).text == response.text
        missing = worker.error_of("chat", {**request, "model": "nobody"})
        assert isinstance(missing, UpstreamBadRequest)
        assert "unknown handler 'nobody'" in missing.message
    with worker_under_test("gpt_b", settings, secrets={"ANTHROPIC_API_KEY": "wrong"}) as worker:
        assert isinstance(worker.error_of("chat", request), UpstreamAuth)


@pytest.mark.parametrize("model", HANDLERS)
def test_the_sdk_for_node_does_all_of_it_too(host: HostUnderTest, node: Callable[..., Any], model: str) -> None:
    seen = node("anthropic", host.url, KEY, model, json.dumps({REFUSED[model]: "any"}))
    for message in (seen["whole"], seen["streamed"]):
        assert [block["text"] for block in message["content"]] == ["Hello you"]
        assert message["stop_reason"] == "end_turn"
        assert message["usage"]["input_tokens"] == 5
        assert message["usage"]["output_tokens"] == 2
    assert seen["texts"] == ["Hello", " you"]
    (call,) = seen["called"]["content"]
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "look", {"at": "x"})
    assert {"gpt_a", "gpt_b", "gpt_e"} <= set(seen["models"])
    errors = seen["errors"]
    assert [(errors[name]["name"], errors[name]["status"]) for name in ("model", "input", "key", "upstream")] == [
        ("NotFoundError", 404),
        ("BadRequestError", 400),
        ("AuthenticationError", 401),
        ("RateLimitError", 429),
    ]
    assert errors["model"]["code"] == "model_not_found"
    assert all(errors[name]["id"] for name in ("model", "input", "key", "upstream"))
    # A native stream has the provider's own error, which has no code of the host.
    code = "upstream_error" if model in TRANSLATED else None
    assert (errors["stream"]["type"], errors["stream"]["code"]) == ("api_error", code)
