"""IDs of tool calls that another provider has made."""

from __future__ import annotations

from typing import Any

import pytest

from gpt_a.requests import request_body
from gpt_b.requests import message_body
from handler_host.chat import AssistantMessage, ChatRequest, FunctionCall, ToolCall, ToolMessage, UserMessage
from handler_host.chat.stream_repair import StreamRepair
from handler_host.chat.types import ToolCallChunk


def session(*ids: str) -> ChatRequest:
    """Return a request with one turn for each ID of a tool call."""
    request = ChatRequest(messages=[UserMessage(content="Hi")])
    for call_id in ids:
        call = ToolCall(id=call_id, function=FunctionCall(name="f", arguments="{}"))
        request.messages += [AssistantMessage(tool_calls=[call]), ToolMessage(content="r", tool_call_id=call_id)]
    return request


def of_anthropic(*ids: str) -> list[tuple[str, str]]:
    """Return the ID of each call and of its result, as Anthropic gets them."""
    blocks = [each["content"][0] for each in message_body(session(*ids), "claude", 50).content["messages"][1:]]
    return [(call["id"], result["tool_use_id"]) for call, result in zip(blocks[::2], blocks[1::2], strict=True)]


def of_openai(*ids: str, is_openai: bool = True) -> list[tuple[str, str]]:
    messages: list[Any] = request_body(session(*ids), "m", is_openai=is_openai).content["messages"][1:]
    pairs = zip(messages[::2], messages[1::2], strict=True)
    return [(call["tool_calls"][0]["id"], result["tool_call_id"]) for call, result in pairs]


@pytest.mark.parametrize("call_id", ["functions.f:0", "call|fc_1", "", "ü", "\ud83d"])
def test_anthropic_gets_ids_that_it_takes(call_id: str) -> None:
    """It takes letters, digits, ``_`` and ``-``; Kimi writes ``functions.f:0``, pi ``call|fc_1``."""
    ((first, result),) = of_anthropic(call_id)
    assert first == result
    assert first.removeprefix("call_").isalnum()
    assert of_anthropic(call_id, "b")[0][0] == first  # as in the turn before


def test_openai_gets_ids_of_its_length() -> None:
    ((first, result),) = of_openai("x" * 41)
    assert first == result
    assert len(first) <= 40


@pytest.mark.parametrize("of_provider", [of_anthropic, of_openai])
def test_an_id_of_two_turns_becomes_two(of_provider: Any) -> None:
    """Some servers start at ``call_0`` in every response, and Anthropic refuses the session."""
    pairs = of_provider("call_0", "call_0", "call_0")
    assert all(call == result for call, result in pairs)
    assert (pairs[0][0], len(set(pairs))) == ("call_0", 3)


def test_a_compatible_server_gets_its_own_ids() -> None:
    assert of_openai("functions.f:0", "x" * 41, is_openai=False) == [("functions.f:0",) * 2, ("x" * 41,) * 2]


def test_a_response_has_no_id_of_the_history() -> None:
    """Clients find the call of a result by its ID alone."""
    (chunk,) = StreamRepair({"call_0"}).chunks(ToolCallChunk(index=0, id="call_0", name="f"))
    assert isinstance(chunk, ToolCallChunk)
    assert chunk.id not in ("call_0", None)
