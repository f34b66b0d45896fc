"""Bodies of gpt_a's requests."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpt_a.requests import request_body
from gpt_a.responses_body import count_body
from handler_host.chat import ChatRequest, ReasoningOptions, is_openai


def request(message: dict[str, Any]) -> ChatRequest:
    return msgspec.convert({"messages": [message]}, ChatRequest)


@pytest.mark.parametrize("is_openai", [True, False])
def test_signatures_of_gemini_reach_compatible_servers_only(is_openai: bool) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}, "signature": "c2ln"}
    body = request_body(request({"role": "assistant", "tool_calls": [call]}), "m", is_openai=is_openai).content
    assert ("extra_content" in body["messages"][0]["tool_calls"][0]) is not is_openai


@pytest.mark.parametrize(
    ("url", "field"), [("https://example.com/a.pdf", "file_url"), ("data:application/pdf;base64,AAAA", "file_data")]
)
def test_documents_are_counted_by_data_or_url(url: str, field: str) -> None:
    body = count_body(request({"role": "user", "content": [{"type": "file", "file": {"url": url}}]}), "m")
    assert body["input"][0]["content"][0][field] == url


@pytest.mark.parametrize(
    ("model", "options", "effort"),
    [
        ("gpt-5.5", {"summary": "auto"}, "medium"),
        ("gpt-5.5", {"budget_tokens": -1}, "medium"),
        ("gpt-5.5", {"budget_tokens": 0}, "none"),
        ("gpt-5.5", {}, None),
        ("gpt-5", {"summary": "auto"}, None),
        ("gpt-4o", {"summary": "auto"}, None),
    ],
)
def test_a_model_reasons_for_a_client_that_wants_to_see_it(
    model: str, options: dict[str, Any], effort: str | None
) -> None:
    """opencode sends Gemini's models ``includeThoughts`` alone, because they always reason; ``gpt-5.5`` does not."""
    chat = msgspec.convert({"messages": [{"role": "user", "content": "Hi"}], "reasoning": options}, ChatRequest)
    assert request_body(chat, model, is_openai=True).content.get("reasoning_effort") == effort


def with_tools(options: dict[str, Any] | None, **fields: Any) -> ChatRequest:
    tool = {"type": "function", "function": {"name": "f"}}
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [tool], "reasoning": options, **fields}
    return msgspec.convert(body, ChatRequest)


@pytest.mark.parametrize(
    ("model", "options", "effort"),
    [
        ("gpt-5.6", {"effort": "none"}, "none"),
        ("gpt-5.6", None, "none"),
        ("gpt-5.1", {"effort": "high"}, "high"),
        ("gpt-5.1", {"budget_tokens": -1}, "medium"),
        ("gpt-5.1", {"effort": "minimal"}, "low"),
        ("gpt-5", {"effort": "minimal"}, "minimal"),
        ("gpt-5.5-chat-latest", None, None),
        ("gpt-4o", None, None),
    ],
)
def test_openai_refuses_tools_beside_reasoning(model: str, options: dict[str, Any] | None, effort: str | None) -> None:
    """In chat completions from gpt-5.4 on, where some models reason unasked."""
    body = request_body(with_tools(options), model, is_openai=True)
    assert (body.path, body.content.get("reasoning_effort"), body.ignored) == ("/chat/completions", effort, [])


@pytest.mark.parametrize(
    ("model", "options", "reasoning"),
    [
        ("gpt-5.5", {"effort": "high"}, {"effort": "high"}),
        ("gpt-5.5", {"summary": "auto"}, {"effort": "medium", "summary": "auto"}),
        ("gpt-6-sol", {"budget_tokens": 9}, {"effort": "low"}),
    ],
)
def test_tools_beside_reasoning_go_to_openais_responses(
    model: str, options: dict[str, Any], reasoning: dict[str, str]
) -> None:
    fields = {"max_tokens": 50, "verbosity": "low", "temperature": 0.5, "parallel_tool_calls": False, "n": 1}
    body = request_body(with_tools(options, **fields), model, is_openai=True)
    assert (body.path, body.ignored) == ("/responses", ["temperature"])
    assert body.content == {
        "model": model,
        "input": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "name": "f", "parameters": None, "strict": False}],
        "reasoning": reasoning,
        "text": {"verbosity": "low"},
        "max_output_tokens": 50,
        "parallel_tool_calls": False,
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }


@pytest.mark.parametrize("field", [{"stop": ["x"]}, {"n": 2}, {"logprobs": True}])
def test_a_field_of_completions_only_turns_reasoning_off(field: dict[str, Any]) -> None:
    body = request_body(with_tools({"effort": "high"}, **field), "gpt-5.5", is_openai=True)
    assert (body.path, body.content["reasoning_effort"], body.ignored) == ("/chat/completions", "none", ["reasoning"])


@pytest.mark.parametrize("model", ["gpt-5.1-codex-max", "gpt-5.4-pro", "o3-pro-2025-06-10", "codex-mini-latest"])
def test_models_without_chat_completions(model: str) -> None:
    chat = msgspec.convert({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5}, ChatRequest)
    assert request_body(chat, model, is_openai=False).path == "/chat/completions"
    chat.temperature = 0.5
    body = request_body(chat, model, is_openai=True)
    assert (body.path, body.ignored) == ("/responses", ["temperature"])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, True),
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://notapi.openai.com.example/v1", False),
        ("http://127.0.0.1:8000/v1", False),
    ],
)
def test_servers_of_openai(url: str | None, expected: bool) -> None:
    assert is_openai(url) is expected


def test_a_compatible_server_gets_the_effort_beside_tools() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    fields = {"messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}
    for options, effort in (({"effort": "high"}, "high"), ({"summary": "auto"}, "medium"), (None, None)):
        chat = msgspec.convert({**fields, "reasoning": options}, ChatRequest)
        assert request_body(chat, "gpt-5.5", is_openai=False).content.get("reasoning_effort") == effort


@pytest.mark.parametrize(("budget", "effort"), [(0, None), (-1, None), (2048, "low"), (2049, "medium"), (9**5, "high")])
def test_the_effort_of_a_budget(budget: int, effort: str | None) -> None:
    """None for a budget of 0: LiteLLM refuses the effort ``none`` for models that always reason."""
    assert ReasoningOptions(budget_tokens=budget).effort_or_budget == effort


@pytest.mark.parametrize(
    ("model", "reasons"), [("a/b/gpt-5", True), ("gpt-5/" * 100_000 + "x-chat", False), ("gpt-5/x", False)]
)
def test_the_last_part_of_a_name_is_the_model(model: str, reasons: bool) -> None:
    """Each ``/`` of a long name was tried as the last one: 120 KB took 0.5 s, 240 KB 2 s."""
    chat = msgspec.convert({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5}, ChatRequest)
    assert (request_body(chat, model, is_openai=True).ignored == ["temperature"]) is reasons


def test_the_responses_api_gets_its_least_limit() -> None:
    """OpenAI refuses ``max_output_tokens`` below 16 there; its chat completions take any limit."""
    chat = with_tools({"effort": "high"}, max_tokens=1)
    body = request_body(chat, "gpt-5.5", is_openai=True)
    assert (body.content["max_output_tokens"], body.ignored) == (16, ["max_tokens"])


@pytest.mark.parametrize("is_openai", [True, False])
def test_a_compatible_server_gets_the_whole_schema_of_a_tool(is_openai: bool) -> None:
    """OpenAI refuses combinations at the top of a schema; servers such as vLLM take them."""
    options = {"anyOf": [{"type": "object", "properties": {"x": {"type": "string"}}}]}
    function = {"name": "f", "parameters": {"type": "object", **options}}
    chat = with_tools(None, tools=[{"function": function}])
    body = request_body(chat, "m", is_openai=is_openai)
    assert ("anyOf" in body.content["tools"][0]["function"]["parameters"]) is not is_openai
    assert bool(body.ignored) is is_openai
