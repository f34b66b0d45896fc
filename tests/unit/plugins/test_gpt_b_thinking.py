"""Budgets of reasoning on Claude models that know budgets only: they are a part of ``max_tokens``."""

from __future__ import annotations

import pytest

from gpt_b.thinking import thinking_for
from handler_host.chat import ChatRequest, ReasoningOptions, UserMessage


@pytest.mark.parametrize(
    ("options", "max_tokens", "budget"),
    [
        (ReasoningOptions(effort="low"), 8192, 2048),
        (ReasoningOptions(effort="medium"), 8192, 6144),  # Ollama's `think: true` with the default limit
        (ReasoningOptions(effort="xhigh"), 8192, 6144),
        (ReasoningOptions(budget_tokens=-1), 8192, 6144),
        (ReasoningOptions(budget_tokens=20000), 8192, 6144),
        (ReasoningOptions(budget_tokens=8000), 8192, 8000),  # Anthropic takes it, and the client chose it
    ],
)
def test_a_budget_leaves_tokens_for_the_response(options: ReasoningOptions, max_tokens: int, budget: int) -> None:
    request = ChatRequest(messages=[UserMessage(content="Hi.")], reasoning=options)
    thinking = thinking_for(request, "claude-haiku-4-5", max_tokens)
    assert thinking.fields == {"thinking": {"type": "enabled", "budget_tokens": budget}}


def test_reasoning_without_room_for_its_budget_is_left_out() -> None:
    request = ChatRequest(messages=[UserMessage(content="Hi.")], reasoning=ReasoningOptions(effort="low"))
    assert thinking_for(request, "claude-haiku-4-5", 1100) == ({}, None, ["reasoning"])
