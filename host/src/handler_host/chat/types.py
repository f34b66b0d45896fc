"""Types of the chat contract: the request, the chunks of a stream, the whole response.

Requests follow OpenAI's chat completions, which most providers and clients speak. Responses are ordered parts, as in
Anthropic's messages and OpenAI's Responses: text, reasoning, refusals, tool calls.

The module stands apart from ``handler_host.chat.handler`` because the host only translates to and from these types, and
must not load the code for plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class _Model(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Base of the chat types: keyword arguments only; JSON leaves defaults out.

    Tools and tool calls write them (``omit_defaults=False``): OpenAI refuses a tool without its ``type``.
    """


class ImageUrl(_Model, forbid_unknown_fields=True):
    """An image by ``https:`` or ``data:`` URL."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(_Model, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Text in a message or a response."""

    text: str


class ImagePart(_Model, tag_field="type", tag="image_url", forbid_unknown_fields=True):
    """An image in a message."""

    image_url: ImageUrl


class ReasoningPart(_Model, tag_field="type", tag="reasoning"):
    """Reasoning of the model."""

    text: str = ""
    signature: str | None = None
    encrypted: str | None = None


class RefusalPart(_Model, tag_field="type", tag="refusal"):
    """A refusal of the model, in its own words."""

    text: str


class ToolCallPart(_Model, tag_field="type", tag="tool_call"):
    """A tool call of the model; ``arguments`` is a JSON document."""

    id: str
    name: str
    arguments: str


ResponsePart = TextPart | ReasoningPart | RefusalPart | ToolCallPart


Content = str | list[TextPart | ImagePart]


class FunctionCall(_Model, forbid_unknown_fields=True):
    """A function's name, and the arguments of a call as a JSON document."""

    name: str
    arguments: str


class ToolCall(_Model, forbid_unknown_fields=True, omit_defaults=False):
    """A tool call that the model made, in a message of the history."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class SystemMessage(_Model, tag_field="role", tag="system", forbid_unknown_fields=True):
    """Instructions, including OpenAI's ``developer`` messages."""

    content: str | list[TextPart]
    name: str | None = None


class UserMessage(_Model, tag_field="role", tag="user", forbid_unknown_fields=True):
    """Text and images of the user."""

    content: Content
    name: str | None = None


class AssistantMessage(_Model, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    """An earlier response of the model; ``content`` may be None if the model called tools or refused.

    ``content`` takes the parts of a :class:`ChatResponse` as they are. Refusals and tool calls among them move to their
    own fields, and reasoning is left out: handlers cannot send it back.
    """

    content: str | Sequence[ResponsePart] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Distribute the parts of a response."""
        parts = self.content
        if parts is None or isinstance(parts, str) or all(isinstance(part, TextPart) for part in parts):
            return
        calls = _tool_calls(parts)
        refusal = _joined(parts, RefusalPart)
        texts = [part for part in parts if isinstance(part, TextPart)]
        self.content = texts or (None if calls or refusal else "")
        self.tool_calls = [*(self.tool_calls or ()), *calls] or None
        self.refusal = refusal if self.refusal is None else self.refusal


class ToolMessage(_Model, tag_field="role", tag="tool", forbid_unknown_fields=True):
    """The result of a tool call."""

    content: str | list[TextPart]
    tool_call_id: str


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage


class FunctionSpec(_Model, forbid_unknown_fields=True):
    """A function that the model may call; ``parameters`` is a JSON Schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Model, forbid_unknown_fields=True, omit_defaults=False):
    """A tool that the model may use."""

    function: FunctionSpec
    type: Literal["function"] = "function"


class NamedFunction(_Model, forbid_unknown_fields=True):
    """The name of a function, inside a :class:`NamedToolChoice`."""

    name: str


class NamedToolChoice(_Model, forbid_unknown_fields=True, omit_defaults=False):
    """A function that the model must call."""

    function: NamedFunction
    type: Literal["function"] = "function"


class JsonSchema(_Model, forbid_unknown_fields=True):
    """A JSON Schema that the response must fit."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextFormat(_Model, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Text, the default format of a response."""


class JsonObjectFormat(_Model, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    """A response that is a JSON object."""


class JsonSchemaFormat(_Model, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    """A response that is a JSON document and fits a schema."""

    json_schema: JsonSchema


class ChatRequest(_Model, forbid_unknown_fields=True):
    """A request for the next turn of a chat; the handler chooses the model if ``model`` is None."""

    messages: list[Message]
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    seed: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None

    def last_text(self) -> str:
        """Return the text of the last user message, or an empty string."""
        for message in reversed(self.messages):
            if isinstance(message, UserMessage):
                return content_text(message.content)
        return ""


class Usage(_Model):
    """Token counts of one response, as the provider reports them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class TokenCount(_Model, omit_defaults=False):
    """The response of the optional operation ``count_tokens`` to a :class:`ChatRequest`."""

    input_tokens: int


class _Chunk(_Model, tag_field="type"):
    """Base of all chunks; each has its own value of ``type`` in JSON."""


class TextChunk(_Chunk, tag="text"):
    """The next part of the text; adjacent ones make one :class:`TextPart`."""

    text: str


class ReasoningChunk(_Chunk, tag="reasoning"):
    """The next part of the model's reasoning; adjacent ones make one :class:`ReasoningPart`.

    ``signature`` and ``encrypted`` are opaque data of the provider, and each ends its part.
    """

    text: str = ""
    signature: str | None = None
    encrypted: str | None = None


class RefusalChunk(_Chunk, tag="refusal"):
    """The next part of the model's refusal; adjacent ones make one :class:`RefusalPart`."""

    text: str


class ToolCallChunk(_Chunk, tag="tool_call"):
    """The next part of a tool call; the first one of each ``index`` has ``id`` and ``name``."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class ModelChunk(_Chunk, tag="model"):
    """The model that responds, as the provider names it."""

    model: str


class FinishChunk(_Chunk, tag="finish"):
    """The reason why the model stopped; no content follows it, and a stream has exactly one."""

    reason: FinishReason


class UsageChunk(_Chunk, tag="usage"):
    """The token counts of the response; if a stream has several, the last one counts."""

    usage: Usage


ChatChunk = TextChunk | ReasoningChunk | RefusalChunk | ToolCallChunk | ModelChunk | FinishChunk | UsageChunk
"""One item of a chat's stream. Consumers must skip kinds and fields that they do not know."""


class ChatResponse(_Model):
    """A whole response: the chunks of a stream, accumulated.

    ``content`` has the parts in the order in which the model made them.
    """

    content: list[ResponsePart]
    finish_reason: FinishReason
    usage: Usage | None
    model: str | None = None

    @property
    def text(self) -> str | None:
        """The whole text, or None without a text part."""
        return _joined(self.content, TextPart)

    @property
    def refusal(self) -> str | None:
        """The whole refusal, or None if the model did not refuse in words."""
        return _joined(self.content, RefusalPart)

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The tool calls, as an :class:`AssistantMessage` takes them."""
        return _tool_calls(self.content)


def _joined(parts: Iterable[ResponsePart], kind: type[TextPart | RefusalPart]) -> str | None:
    texts = [part.text for part in parts if isinstance(part, kind)]
    return "".join(texts) if texts else None


def _tool_calls(parts: Iterable[ResponsePart]) -> list[ToolCall]:
    return [
        ToolCall(id=part.id, function=FunctionCall(name=part.name, arguments=part.arguments))
        for part in parts
        if isinstance(part, ToolCallPart)
    ]


def content_text(content: str | Sequence[TextPart | ImagePart | ResponsePart] | None) -> str:
    """Return the text in a message's content, without its images."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content if isinstance(part, TextPart))
