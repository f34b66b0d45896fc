"""Types of the requests of Anthropic's messages, and the fields that have no translation. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from handler_host.protocols.fields import ECHO, Field, demand, hint
from handler_host.protocols.provider_state import THREAD_UNSUPPORTED

FIELDS: dict[str, Field] = {
    "container": hint(),
    "context_management": hint({"edits": []}),
    "diagnostics": hint(),
    "inference_geo": demand(),
    "mcp_servers": demand(),
    "speed": hint("standard"),
    "thread": demand(remedy="the host stores nothing; send all messages without thread", error_code=THREAD_UNSUPPORTED),
    "messages[].content[].citations": hint({"enabled": False}),
    "messages[].content[].content[].citations": hint({"enabled": False}),
    "messages[].content[].context": hint(),
    "messages[].content[].parsed_output": ECHO,
    "messages[].content[].toolset_name": ECHO,
    "messages[].id": ECHO,
    "output_config.task_budget": hint(),
    "tools[].allowed_callers": hint(["direct"]),
    "tools[].defer_loading": hint(False),
    "tools[].input_examples": hint(),
}
"""Fields that a chat request has no place for."""

MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
CHOICES = {
    "messages[].role": "user, assistant or system",
    "messages[].content[].type": "text, image, document, search_result, tool_use, tool_result, thinking or "
    "redacted_thinking, each in the message of its role",
    "messages[].content[].content[].type": "text, image, document or search_result",
    "messages[].content[].source.type": "base64 or url; the host stores no files",
    "messages[].content[].source.media_type": ", ".join(MEDIA_TYPES),
    "output_config.format.type": "json_schema",
    "system[].type": "text",
    "tool_choice.type": "auto, any, tool or none",
    "thinking.type": "enabled, adaptive, between_tools or disabled",
    "tools[].type": "custom",
}
"""The valid words of each field that takes one of a few, for error messages."""


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of requests and their parts."""


class _Block(_Request, kw_only=True):
    """Base of blocks: any block can have a marker for the provider's cache."""

    cache_control: dict[str, Any] | None = None


class TextBlock(_Block, tag_field="type", tag="text", kw_only=True):
    """A text."""

    text: str


class EchoedText(TextBlock, tag_field="type", tag="text", kw_only=True):
    """A text of an earlier response, with the citations that it had."""

    citations: Any = None


class Base64Source(_Request, tag_field="type", tag="base64", kw_only=True):
    """The data of an image."""

    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: Annotated[str, Meta(min_length=1)]


class UrlSource(_Request, tag_field="type", tag="url", kw_only=True):
    """The URL of an image or a document."""

    url: Annotated[str, Meta(pattern=r"^https?://")]


class ImageBlock(_Block, tag_field="type", tag="image", kw_only=True):
    """An image."""

    source: Base64Source | UrlSource


class DocumentData(_Request, tag_field="type", tag="base64", kw_only=True):
    """The data of a document."""

    media_type: Annotated[str, Meta(pattern=r"^[\w.+-]+/[\w.+-]+$")]
    data: Annotated[str, Meta(min_length=1)]


class TextSource(_Request, tag_field="type", tag="text", kw_only=True):
    """A document of plain text."""

    data: str
    media_type: str | None = None


class ContentSource(_Request, tag_field="type", tag="content", kw_only=True):
    """A document of blocks."""

    content: str | list[TextBlock | ImageBlock]


class DocumentBlock(_Block, tag_field="type", tag="document", kw_only=True):
    """A document."""

    source: DocumentData | UrlSource | TextSource | ContentSource
    title: str | None = None


class SearchResultBlock(_Block, tag_field="type", tag="search_result", kw_only=True):
    """A text that the client has found, with its source."""

    content: list[TextBlock]
    source: str
    title: str


class ThinkingBlock(_Request, tag_field="type", tag="thinking", kw_only=True):
    """Reasoning of an earlier response."""

    thinking: str
    signature: str | None = None


class RedactedBlock(_Request, tag_field="type", tag="redacted_thinking", kw_only=True):
    """Encrypted reasoning of an earlier response."""

    data: str


class ToolUseBlock(_Block, tag_field="type", tag="tool_use", kw_only=True):
    """A tool call that the model made; newer SDKs send ``caller`` back."""

    id: str
    name: str
    input: dict[str, Any]
    caller: Any = None


class ToolResultBlock(_Block, tag_field="type", tag="tool_result", kw_only=True):
    """The result of a tool call; null stands for a block of another type, which is left out."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | None] = ""
    is_error: bool | None = None


class UserMessage(_Request, tag_field="role", tag="user", kw_only=True):
    """Text, images and documents of the user, and results of tools; null stands for a block that is left out."""

    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolResultBlock | None]


class AssistantMessage(_Request, tag_field="role", tag="assistant", kw_only=True):
    """An earlier response of the model; null stands for a block that is left out."""

    content: str | list[EchoedText | ToolUseBlock | ThinkingBlock | RedactedBlock | None]


class SystemMessage(_Request, tag_field="role", tag="system", kw_only=True):
    """Instructions in the middle of the chat."""

    content: str | list[TextBlock]


class Tool(_Block, kw_only=True):
    """A tool that the client runs."""

    name: str
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    eager_input_streaming: bool | None = None
    """Finer chunks of arguments; the host passes on the handler's."""


class ToolChoice(_Request, kw_only=True):
    """Which tools the model may or must call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(_Request, kw_only=True):
    """A JSON Schema that the response must fit."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(_Request, kw_only=True):
    """Options of the response."""

    format: OutputFormat | None = None
    effort: str | None = None


class Thinking(_Request, kw_only=True):
    """Options of the reasoning."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None
    display: str | None = None


class Metadata(_Request, kw_only=True):
    """The user, for the provider's detection of abuse."""

    user_id: str | None = None


class Prompt(_Request, kw_only=True):
    """Fields that messages and token counts share."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[UserMessage | AssistantMessage | SystemMessage], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[Tool | None] | None = None
    """Null stands for a tool that runs at the provider, which is left out."""
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """Older name of ``output_config.format``."""
    thinking: Thinking | None = None
    cache_control: dict[str, Any] | None = None


class CountRequest(Prompt, kw_only=True):
    """The body of ``POST /v1/messages/count_tokens``."""


class MessageRequest(Prompt, kw_only=True):
    """The body of ``POST /v1/messages``."""

    max_tokens: Annotated[int, Meta(ge=1)]
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
