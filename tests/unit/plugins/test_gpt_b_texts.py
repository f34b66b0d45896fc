"""Texts that Anthropic refuses, and with them the whole session."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpt_b.requests import message_body
from handler_host.chat import ChatRequest

CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def turns(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages for Anthropic, without the question at the end."""
    request = msgspec.convert({"messages": [*messages, {"role": "user", "content": "Go on"}]}, ChatRequest)
    body = message_body(request, "claude", 50).content
    assert body["messages"][-1]["content"] == "Go on"
    assert "system" not in body
    return list(body["messages"][:-1])


@pytest.mark.parametrize("role", ["assistant", "user", "system"])
@pytest.mark.parametrize("content", ["", " \n", [{"type": "text", "text": " "}]])
def test_a_message_without_words_is_left_out(role: str, content: Any) -> None:
    """A model may respond with nothing, and clients send that back."""
    assert turns({"role": role, "content": content}) == []


def test_blank_parts_are_left_out_of_messages_and_results() -> None:
    parts = [{"type": "text", "text": text} for text in ("", "word", "\n")]
    _, call, result = turns(
        {"role": "user", "content": parts},
        {"role": "assistant", "content": parts, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a", "content": parts},
    )
    words = [{"type": "text", "text": "word"}]
    assert (call["content"][:-1], result["content"][0]["content"]) == (words, words)
