"""OpenAI's SDK of npm as a client of the host: chat completions and responses, streamed and not, tools, errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from handler_host.testing import Reply, ScriptedToolCall, Status, Upstream, host_under_test
from handler_host.testing.script import FixedStep, RecordedRequest

KEY = "a-consumer-key-of-some-length"
LOOK = ScriptedToolCall("look", {"at": "the sun"}, chunk_count=3)


def response(received: RecordedRequest) -> FixedStep:
    """Reply as the name of the model demands."""
    steps: dict[str | None, FixedStep] = {
        "tools": Reply((), finish="tool_calls", calls=(LOOK,)),
        "limited": Status(429, "slow down", retry_after=17),
        "broken": Reply().with_fault("cut", after=1),
        "silent": Status(400, "text only", code="unsupported_value", param="modalities"),
    }
    return steps.get(received.parsed.model) or Reply()


@pytest.fixture(scope="module", params=[True, False], ids=["native", "translated"])
def is_native(request: pytest.FixtureRequest) -> bool:
    """Return whether the handler gets chat completions as they came."""
    return bool(request.param)


@pytest.fixture(scope="module")
def seen(node: Callable[..., Any], is_native: bool) -> Iterator[tuple[Any, Upstream]]:
    with Upstream().run() as upstream:
        upstream.respond_with(response)
        native = str(is_native).lower()
        config = f'[handlers.gpt_a]\nbase_url = "{upstream.base_url("openai")}"\nretries = 0\nnative = {native}\n'
        with host_under_test(config, environ={"HANDLER_HOST_API_KEYS": KEY}) as host:
            yield node("openai", f"{host.url}/v1", KEY), upstream


def test_chat_completions_come_whole_and_streamed(seen: tuple[Any, Upstream]) -> None:
    chats = seen[0]["chats"]
    (choice,) = chats["whole"]["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello you", "stop")
    assert chats["whole"]["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert chats["pieces"] == ["Hello", " you"]
    assert seen[1].requests[0].parsed.max_tokens == 9


def test_chat_completions_call_tools(seen: tuple[Any, Upstream]) -> None:
    for name in ("called", "streamedCall"):
        (choice,) = seen[0]["chats"][name]["choices"]
        (call,) = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls"
        assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("look", LOOK.arguments)


def test_errors_become_the_sdks_own(seen: tuple[Any, Upstream], is_native: bool) -> None:
    found = {name: (error["name"], error["status"]) for name, error in seen[0]["chats"]["errors"].items()}
    assert found == {
        "model": ("NotFoundError", 404),
        "input": ("BadRequestError", 400),
        "key": ("AuthenticationError", 401),
        "upstream": ("RateLimitError", 429),
        "stream": ("APIError", None),
    }
    assert "slow down" in seen[0]["chats"]["errors"]["upstream"]["message"]
    refused = seen[0]["chats"]["errors"]["input"]
    # A native request is refused by the provider, a translated one by the host before the provider receives it.
    assert (refused["param"], refused["code"]) == (
        "modalities",
        "unsupported_value" if is_native else "invalid_input",
    )
    received = [each.body["modalities"] for each in seen[1].requests if "modalities" in each.body]
    assert received == ([["text", "audio"]] if is_native else [])
    found = {name: (error["status"], error["param"]) for name, error in seen[0]["responses"]["errors"].items()}
    assert found == {"model": (404, "model"), "input": (400, "previous_response_id"), "upstream": (429, None)}


def test_responses_come_whole_and_streamed(seen: tuple[Any, Upstream]) -> None:
    responses = seen[0]["responses"]
    assert (responses["whole"]["status"], responses["whole"]["output_text"]) == ("completed", "Hello you")
    assert responses["whole"]["usage"]["total_tokens"] == 7
    assert responses["types"][0] == "response.created"
    assert responses["types"].count("response.output_text.delta") == 2
    assert responses["types"][-1] == "response.completed"
    assert responses["last"]["output"][0]["content"][0]["text"] == responses["helper"] == "Hello you"


def test_responses_call_tools_and_take_their_results(seen: tuple[Any, Upstream]) -> None:
    responses = seen[0]["responses"]
    (call,) = responses["call"]["output"]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "look", LOOK.arguments)
    assert responses["answered"]["output_text"] == "Hello you"
    asked = next(each.parsed for each in seen[1].requests if any(turn.role == "tool" for turn in each.parsed.turns))
    assert [(turn.role, turn.text) for turn in asked.turns] == [
        ("user", "Look!"),
        ("assistant", ""),
        ("tool", "a star"),
    ]


def test_a_stream_of_a_response_that_breaks_ends_as_a_failed_one(seen: tuple[Any, Upstream], is_native: bool) -> None:
    broken = seen[0]["responses"]["broken"]
    if is_native:
        assert broken["type"] == "error"
        assert "the connection to the provider failed" in broken["message"]
        return
    assert (broken["type"], broken["response"]["status"]) == ("response.failed", "failed")
    assert "upstream_unreachable" in broken["response"]["error"]["message"]


def test_models_are_the_handlers_that_can_chat(seen: tuple[Any, Upstream]) -> None:
    assert {"gpt_a", "gpt_d", "gpt_e"} <= set(seen[0]["models"])
