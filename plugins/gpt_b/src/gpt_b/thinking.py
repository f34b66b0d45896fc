"""Options of reasoning in Anthropic's terms, which differ by model. Pure."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from handler_host.chat import AssistantMessage, ChatRequest, Message, NamedToolChoice, ReasoningOptions, UserMessage

MIN_BUDGET = 1024
"""Smallest budget of reasoning that Anthropic takes, in tokens."""
BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32000, "max": 63000}
"""Tokens of reasoning for each effort, for models that know budgets only."""
EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
"""Anthropic's word for each effort."""
FIRST_ADAPTIVE = (4, 6)
"""First version of the models that choose their budget themselves, and take an effort."""
FIRST_WITH_SYSTEM_TURNS = (4, 8)
"""First version of the models that take instructions in the middle of a chat."""
FIRST_THINKING = (3, 7)

Json = dict[str, Any]


class Thinking(NamedTuple):
    """Fields of a request's body, and the chat's fields that Anthropic does not take beside them."""

    fields: Json
    effort: str | None
    ignored: list[str]


def version_of(model: str) -> tuple[int, int]:
    """Return the version in a model's name, ``claude-opus-4-8`` or ``claude-3-7-sonnet``; 0.0 if it has none."""
    match = re.search(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)", model)
    return (int(match[1]), int(match[2] or 0)) if match is not None else (0, 0)


def thinking_for(request: ChatRequest, model: str, max_tokens: int) -> Thinking:
    """Return the options for a request; what the model cannot do is ignored, because it is a hint."""
    options = request.reasoning
    if options is None or options.is_off or options == ReasoningOptions():
        return Thinking({}, None, [])
    version = version_of(model)
    if version >= FIRST_ADAPTIVE:
        effort = EFFORTS.get(options.effort or "") or _effort_for(options.budget_tokens)
        if options.budget_tokens is None and options.summary is None:
            return Thinking({}, effort, [])  # an effort alone: it is for the whole response
        thinking: Json = {"type": "adaptive"}
    else:
        budget = _budget(options, max_tokens)
        cannot_think = (0, 0) < version < FIRST_THINKING
        if cannot_think or budget < MIN_BUDGET or _continues_without_reasoning(request.messages):
            return Thinking({}, None, ["reasoning"])
        thinking, effort = {"type": "enabled", "budget_tokens": budget}, None
    if request.tool_choice == "required" or isinstance(request.tool_choice, NamedToolChoice):
        return Thinking({}, effort, ["reasoning"])  # Anthropic takes no forced tool beside reasoning
    if options.summary is not None and version >= FIRST_ADAPTIVE:
        thinking["display"] = "summarized"
    return Thinking({"thinking": thinking}, effort, _left_out_sampling(request))


def _budget(options: ReasoningOptions, max_tokens: int) -> int:
    """Return the tokens for reasoning, which Anthropic counts in ``max_tokens``: the response needs some of them."""
    wanted = options.budget_tokens or 0
    if 0 < wanted < max_tokens:
        return wanted
    if wanted <= 0:
        wanted = BUDGETS.get(options.effort or "medium", BUDGETS["medium"])
    return min(wanted, max_tokens * 3 // 4)


def _effort_for(budget_tokens: int | None) -> str | None:
    if budget_tokens is None or budget_tokens < 0:
        return None
    return next((EFFORTS[effort] for effort, budget in BUDGETS.items() if budget_tokens <= budget), "max")


def _left_out_sampling(request: ChatRequest) -> list[str]:
    """Remove the options of sampling that Anthropic refuses beside reasoning, and return their names."""
    ignored: list[str] = []
    if request.temperature not in (None, 1):
        ignored.append("temperature")
    if request.top_p is not None and request.top_p < MIN_TOP_P:
        ignored.append("top_p")
    if request.top_k is not None:
        ignored.append("top_k")
    return ignored


MIN_TOP_P = 0.95
"""Smallest ``top_p`` that Anthropic takes beside reasoning."""


def _continues_without_reasoning(messages: list[Message]) -> bool:
    """Return whether another model made the last tool calls: Anthropic wants its own reasoning there."""
    for message in reversed(messages):
        if isinstance(message, UserMessage):
            return False
        if isinstance(message, AssistantMessage):
            own = any(part.format == FORMAT for part in message.reasoning or ())
            return bool(message.tool_calls) and not own
    return False


FORMAT = "anthropic"
"""Format of Anthropic's signatures and encrypted reasoning."""
