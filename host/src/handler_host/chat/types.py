"""What a chat is made of: the request, the pieces of its answer, and how they are joined.

The types follow OpenAI's chat completions, which most providers and clients
speak. They are apart from ``handler_host.chat`` so that the host, which only translates to
and from them, does not carry what plugins are made with.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class _Model(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Base of the chat types: keyword arguments only, defaults not written out.

    Except where providers want them: a tool without its ``type`` is refused by OpenAI.
    """


class ImageUrl(_Model, forbid_unknown_fields=True):
    """An image by ``https:`` or ``data:`` URL."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(_Model, tag_field="type", tag="text", forbid_unknown_fields=True):
    """A piece of text in a message."""

    text: str


class ImagePart(_Model, tag_field="type", tag="image_url", forbid_unknown_fields=True):
    """An image in a message."""

    image_url: ImageUrl


Content = str | list[TextPart | ImagePart]


class FunctionCall(_Model, forbid_unknown_fields=True):
    """The call of a function: its name, and its arguments as a JSON document."""

    name: str
    arguments: str


class ToolCall(_Model, forbid_unknown_fields=True, omit_defaults=False):
    """A tool call that the model made."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class SystemMessage(_Model, tag_field="role", tag="system", forbid_unknown_fields=True):
    """Instructions. ``developer`` messages of OpenAI become these."""

    content: str | list[TextPart]
    name: str | None = None


class UserMessage(_Model, tag_field="role", tag="user", forbid_unknown_fields=True):
    """What the user says and shows."""

    content: Content
    name: str | None = None


class AssistantMessage(_Model, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    """What the model said earlier; ``content`` may be None when it called tools or refused."""

    content: str | list[TextPart] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = None


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
    """The model has to call this function."""

    function: NamedFunction
    type: Literal["function"] = "function"


class JsonSchema(_Model, forbid_unknown_fields=True):
    """The schema that the answer has to fit."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextFormat(_Model, tag_field="type", tag="text", forbid_unknown_fields=True):
    """The answer is text."""


class JsonObjectFormat(_Model, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    """The answer is a JSON object."""


class JsonSchemaFormat(_Model, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    """The answer is a JSON document that fits a schema."""

    json_schema: JsonSchema


class ChatRequest(_Model, forbid_unknown_fields=True):
    """One turn of a chat. ``model`` None means the handler's own choice."""

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
    """Tokens, as the provider counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class TokenCount(_Model, omit_defaults=False):
    """What the optional operation ``count_tokens`` of a chat handler answers to a :class:`ChatRequest`."""

    input_tokens: int


class ToolCallDelta(_Model):
    """A part of a tool call: the first one of an ``index`` has ``id`` and ``name``."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class ChatChunk(_Model):
    """One item of a chat's stream; what it does not carry is left out.

    A whole stream has one ``finish_reason`` and one ``usage``, in its last pieces.
    """

    text: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    model: str | None = None
    """The model that answers, as the provider names it."""


class ChatResponse(_Model):
    """A whole answer: the pieces of a stream, joined."""

    text: str | None
    finish_reason: FinishReason
    usage: Usage | None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    model: str | None = None


def content_text(content: Content | list[TextPart] | None) -> str:
    """Return the text in a message's content, without its images."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content if isinstance(part, TextPart))


def accumulate(chunks: list[ChatChunk]) -> ChatResponse:
    """Make one answer of a stream's pieces."""
    text: list[str] = []
    refusal: list[str] = []
    calls: dict[int, ToolCall] = {}
    response = ChatResponse(text=None, finish_reason="stop", usage=None)
    for chunk in chunks:
        if chunk.text is not None:
            text.append(chunk.text)
        if chunk.refusal is not None:
            refusal.append(chunk.refusal)
        for delta in chunk.tool_calls or ():
            call = calls.setdefault(delta.index, ToolCall(id="", function=FunctionCall(name="", arguments="")))
            call.id = delta.id or call.id
            call.function.name = delta.name or call.function.name
            call.function.arguments += delta.arguments
        response.finish_reason = chunk.finish_reason or response.finish_reason
        response.usage = chunk.usage or response.usage
        response.model = chunk.model or response.model
    response.text = "".join(text) if text else None
    response.refusal = "".join(refusal) if refusal else None
    response.tool_calls = [calls[index] for index in sorted(calls)] or None
    return response
