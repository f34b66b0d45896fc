"""Types of the requests of Anthropic's messages, and the fields that are ignored or unsupported. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

IGNORED = frozenset({"cache_control", "metadata", "service_tier"})
"""Fields that are accepted and have no effect: bookkeeping between a client and Anthropic."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "container": (),
    "context_management": (),
    "diagnostics": (),
    "inference_geo": (),
    "mcp_servers": ([],),
    "output_format": (),
    "speed": ("standard",),
    "thinking": ({"type": "disabled"},),
    "top_k": (),
}
"""Unsupported fields, each with the values, apart from null, that request nothing."""

REMEDIES = {"output_format": "use output_config.format instead"}

MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
CHOICES = {
    "messages[].role": "user, assistant or system",
    "messages[].content[].type": "text, image, tool_use or tool_result, each in the message of its role",
    "messages[].content[].content[].type": "text",
    "messages[].content[].source.type": "base64 or url",
    "messages[].content[].source.media_type": ", ".join(MEDIA_TYPES),
    "output_config.format.type": "json_schema",
    "system[].type": "text",
    "tool_choice.type": "auto, any, tool or none",
    "tools[].type": "custom; tools that run at the provider are unsupported",
}
"""The valid words of each field that takes one of a few, for error messages."""


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of requests and their parts."""


class _Block(_Request, kw_only=True):
    """Base of blocks: any block can have a hint for the provider's cache, which has no effect on the response."""

    cache_control: Any = None


class TextBlock(_Block, tag_field="type", tag="text", kw_only=True):
    """A text; a response that is sent back has ``citations``, null or empty."""

    text: str
    citations: Annotated[list[Any], Meta(max_length=0)] | None = None


class Base64Source(_Request, tag_field="type", tag="base64", kw_only=True):
    """The data of an image."""

    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: Annotated[str, Meta(min_length=1)]


class UrlSource(_Request, tag_field="type", tag="url", kw_only=True):
    """The URL of an image."""

    url: Annotated[str, Meta(pattern=r"^https?://")]


class ImageBlock(_Block, tag_field="type", tag="image", kw_only=True):
    """An image."""

    source: Base64Source | UrlSource


class ToolUseBlock(_Block, tag_field="type", tag="tool_use", kw_only=True):
    """A tool call that the model made; newer SDKs send ``caller`` and ``toolset_name`` back."""

    id: str
    name: str
    input: dict[str, Any]
    caller: Any = None
    toolset_name: None = None


class ToolResultBlock(_Block, tag_field="type", tag="tool_result", kw_only=True):
    """The result of a tool call; ``is_error`` is dropped, because the text tells the model."""

    tool_use_id: str
    content: str | list[TextBlock] = ""
    is_error: bool | None = None


class UserMessage(_Request, tag_field="role", tag="user", kw_only=True):
    """Text and images of the user, and results of tools."""

    content: str | list[TextBlock | ImageBlock | ToolResultBlock]


class AssistantMessage(_Request, tag_field="role", tag="assistant", kw_only=True):
    """An earlier response of the model."""

    content: str | list[TextBlock | ToolUseBlock]


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


class Prompt(_Request, kw_only=True):
    """Fields that messages and token counts share."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[UserMessage | AssistantMessage | SystemMessage], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None


class CountRequest(Prompt, kw_only=True):
    """The body of ``POST /v1/messages/count_tokens``."""


class MessageRequest(Prompt, kw_only=True):
    """The body of ``POST /v1/messages``."""

    max_tokens: Annotated[int, Meta(ge=1)]
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
