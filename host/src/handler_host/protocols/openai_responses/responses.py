"""Types of the responses of OpenAI's Responses API. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType, field

from handler_host.chat import types as chat


class _Shape(msgspec.Struct, kw_only=True):
    """Base of responses: JSON has null for None."""


class OutputText(_Shape, kw_only=True, tag_field="type", tag="output_text"):
    """The text of a message."""

    text: str = ""
    annotations: list[dict[str, Any]] = []
    logprobs: list[chat.TokenLogprob] = []


class Refusal(_Shape, kw_only=True, tag_field="type", tag="refusal"):
    """The refusal in a message."""

    refusal: str = ""


class Message(_Shape, kw_only=True, tag_field="type", tag="message"):
    """Text and refusal of the model."""

    id: str
    status: str = "in_progress"
    role: str = "assistant"
    content: list[OutputText | Refusal] = field(default_factory=list)


class _Call(_Shape, kw_only=True):
    """Base of calls."""

    id: str
    status: str = "in_progress"
    call_id: str
    name: str
    namespace: str | UnsetType = UNSET


class FunctionCall(_Call, kw_only=True, tag_field="type", tag="function_call"):
    """A tool call of the model."""

    arguments: str = ""


class CustomCall(_Call, kw_only=True, tag_field="type", tag="custom_tool_call"):
    """The call of a tool that takes free text."""

    input: str = ""


class SummaryText(_Shape, kw_only=True, tag_field="type", tag="summary_text"):
    """A part of the summary of a reasoning."""

    text: str = ""


class ReasoningItem(_Shape, kw_only=True, tag_field="type", tag="reasoning"):
    """Reasoning of the model."""

    id: str
    status: str = "in_progress"
    summary: list[SummaryText] = field(default_factory=list)
    encrypted_content: str | None = None


Item = Message | FunctionCall | CustomCall | ReasoningItem


class InputDetails(_Shape, kw_only=True):
    """Details of the input tokens."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(_Shape, kw_only=True):
    """Details of the output tokens."""

    reasoning_tokens: int = 0


class Usage(_Shape, kw_only=True):
    """Token counts."""

    input_tokens: int
    input_tokens_details: InputDetails = field(default_factory=InputDetails)
    output_tokens: int
    output_tokens_details: OutputDetails = field(default_factory=OutputDetails)
    total_tokens: int


class Reason(_Shape, kw_only=True):
    """The reason why a response is incomplete."""

    reason: str


class Failure(_Shape, kw_only=True):
    """The error of a failed response."""

    code: str
    message: str


class Reasoning(_Shape, kw_only=True):
    """Options of the reasoning, as in the request."""

    effort: str | None = None
    summary: str | None = None


class Response(_Shape, kw_only=True):
    """A whole response, or its state during a stream, with the options of its request."""

    id: str
    object: str = "response"
    created_at: int
    status: str = "in_progress"
    background: bool = False
    error: Failure | None = None
    incomplete_details: Reason | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    model: str
    output: list[Item] = field(default_factory=list)
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    reasoning: Reasoning = field(default_factory=Reasoning)
    service_tier: str | None = None
    store: bool = False
    temperature: float | None = None
    text: Any = None
    tool_choice: Any = "auto"
    tools: list[Any] = []
    top_p: float | None = None
    truncation: str = "disabled"
    usage: Usage | None = None
    user: str | None = None
    metadata: dict[str, str] = {}


def usage_of(usage: chat.Usage) -> Usage:
    """Return token counts in the form of this API."""
    return Usage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputDetails(
            cached_tokens=usage.cached_tokens, cache_write_tokens=usage.cache_write_tokens
        ),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputDetails(reasoning_tokens=usage.reasoning_tokens),
        total_tokens=usage.total_tokens or usage.prompt_tokens + usage.completion_tokens,
    )
