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

from handler_host.chat.options import JsonObjectFormat as JsonObjectFormat
from handler_host.chat.options import JsonSchema as JsonSchema
from handler_host.chat.options import JsonSchemaFormat as JsonSchemaFormat
from handler_host.chat.options import ReasoningOptions as ReasoningOptions
from handler_host.chat.options import TextFormat as TextFormat
from handler_host.chat.parts import AudioData as AudioData
from handler_host.chat.parts import AudioPart as AudioPart
from handler_host.chat.parts import CacheControl as CacheControl
from handler_host.chat.parts import Citation as Citation
from handler_host.chat.parts import Content as Content
from handler_host.chat.parts import FilePart as FilePart
from handler_host.chat.parts import FileUrl as FileUrl
from handler_host.chat.parts import ImagePart as ImagePart
from handler_host.chat.parts import ImageUrl as ImageUrl
from handler_host.chat.parts import MediaPart as MediaPart
from handler_host.chat.parts import Model as _Model
from handler_host.chat.parts import ReasoningPart as ReasoningPart
from handler_host.chat.parts import RefusalPart as RefusalPart
from handler_host.chat.parts import ResponsePart as ResponsePart
from handler_host.chat.parts import TextPart as TextPart
from handler_host.chat.parts import ToolCallPart as ToolCallPart
from handler_host.chat.tokens import TokenCount as TokenCount
from handler_host.chat.tokens import TokenLogprob as TokenLogprob
from handler_host.chat.tokens import TopLogprob as TopLogprob
from handler_host.chat.tokens import Usage as Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Unsupported = Literal["refuse", "ignore-hints", "ignore"]
"""How to treat fields that a handler lacks; see :mod:`handler_host.chat.support`."""


def _function() -> Literal["function"]:
    # A factory: JSON leaves plain defaults out, and OpenAI refuses a tool without its type.
    return "function"


class FunctionCall(_Model, forbid_unknown_fields=True):
    """A function's name, and the arguments of a call as a JSON document."""

    name: str
    arguments: str


class ToolCall(_Model, forbid_unknown_fields=True):
    """A tool call that the model made, in a message of the history.

    ``signature`` is opaque data of the provider (Gemini's thought signature), as in :class:`ToolCallChunk`.
    """

    id: str
    function: FunctionCall
    type: Literal["function"] = msgspec.field(default_factory=_function)
    signature: str | None = None
    cache_control: CacheControl | None = None


class SystemMessage(_Model, tag_field="role", tag="system", forbid_unknown_fields=True):
    """Instructions, including OpenAI's ``developer`` messages."""

    content: str | list[TextPart]
    name: str | None = None
    cache_control: CacheControl | None = None


class UserMessage(_Model, tag_field="role", tag="user", forbid_unknown_fields=True):
    """Text, images, documents and recordings of the user."""

    content: Content
    name: str | None = None
    cache_control: CacheControl | None = None


class AssistantMessage(_Model, tag_field="role", tag="assistant", forbid_unknown_fields=True):
    """An earlier response of the model; ``content`` may be None if the model called tools or refused.

    ``content`` takes the parts of a :class:`ChatResponse` as they are: reasoning, refusals and tool calls among them
    move to their own fields.
    """

    content: str | Sequence[ResponsePart] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = None
    reasoning: list[ReasoningPart] | None = None
    cache_control: CacheControl | None = None

    def __post_init__(self) -> None:
        """Distribute the parts of a response."""
        parts = self.content
        if parts is None or isinstance(parts, str) or all(isinstance(part, TextPart) for part in parts):
            return
        calls = _tool_calls(parts)
        refusal = _joined(parts, RefusalPart)
        reasoning = [part for part in parts if isinstance(part, ReasoningPart)]
        texts = [part for part in parts if isinstance(part, TextPart)]
        self.content = texts or (None if calls or refusal else "")
        self.tool_calls = [*(self.tool_calls or ()), *calls] or None
        self.reasoning = [*(self.reasoning or ()), *reasoning] or None
        self.refusal = refusal if self.refusal is None else self.refusal


class ToolMessage(_Model, tag_field="role", tag="tool", forbid_unknown_fields=True):
    """The result of a tool call: text, and images and documents if the handler takes them here.

    The base class moves images and documents to the user message after the results, unless the handler supports
    ``tool_media``.
    """

    content: str | list[TextPart | ImagePart | FilePart]
    tool_call_id: str
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage


class FunctionSpec(_Model, forbid_unknown_fields=True):
    """A function that the model may call; ``parameters`` is a JSON Schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Model, forbid_unknown_fields=True):
    """A tool that the model may use."""

    function: FunctionSpec
    type: Literal["function"] = msgspec.field(default_factory=_function)
    cache_control: CacheControl | None = None


class NamedFunction(_Model, forbid_unknown_fields=True):
    """The name of a function, inside a :class:`NamedToolChoice`."""

    name: str


class NamedToolChoice(_Model, forbid_unknown_fields=True):
    """A function that the model must call."""

    function: NamedFunction
    type: Literal["function"] = msgspec.field(default_factory=_function)


class ChatRequest(_Model, forbid_unknown_fields=True):
    """A request for the next turn of a chat; the handler chooses the model if ``model`` is None.

    The fields up to ``user`` are those that each handler gets. The others reach a handler only if its ``supports``
    names them (:mod:`handler_host.chat.support`); ``unsupported`` says how to treat them otherwise.
    """

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
    reasoning: ReasoningOptions | None = None
    verbosity: str | None = None
    top_k: int | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    """Most probable tokens to return for each place, beside the one that was written."""
    n: int | None = None
    """How many responses the model makes; None: one."""
    max_completion_tokens: int | None = None
    """The value of ``max_tokens`` under OpenAI's newer name, if the client used that."""
    cache_control: CacheControl | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    """OpenAI's word for price and speed: ``auto``, ``default``, ``flex``, ``priority``."""
    unsupported: Unsupported | None = None

    def last_text(self) -> str:
        """Return the text of the last user message, or an empty string."""
        for message in reversed(self.messages):
            if isinstance(message, UserMessage):
                return content_text(message.content)
        return ""


class _Chunk(_Model, tag_field="type"):
    """Base of all chunks; each has its own value of ``type`` in JSON."""


class _ChoiceChunk(_Chunk, kw_only=True):
    """Base of the chunks of one response; ``choice`` is its number, from 0 on, if the request has an ``n``."""

    choice: int = 0


class TextChunk(_ChoiceChunk, tag="text"):
    """The next part of the text; adjacent ones make one :class:`TextPart`."""

    text: str


class ReasoningChunk(_ChoiceChunk, tag="reasoning"):
    """The next part of the model's reasoning; adjacent ones make one :class:`ReasoningPart`.

    ``signature`` and ``encrypted`` are opaque data of the provider ``format``, and each ends its part.
    """

    text: str = ""
    signature: str | None = None
    encrypted: str | None = None
    format: str | None = None


class RefusalChunk(_ChoiceChunk, tag="refusal"):
    """The next part of the model's refusal; adjacent ones make one :class:`RefusalPart`."""

    text: str


class ToolCallChunk(_ChoiceChunk, tag="tool_call"):
    """The next part of a tool call; the first one of each ``index`` has ``id`` and ``name``."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    signature: str | None = None


class CitationChunk(_ChoiceChunk, tag="citation"):
    """A source of the text; it comes after the text that it stands for."""

    citation: Citation


class LogprobsChunk(_ChoiceChunk, tag="logprobs"):
    """Log probabilities of the next tokens of the text, before the text itself."""

    content: list[TokenLogprob]


class ModelChunk(_Chunk, tag="model"):
    """The model that responds, as the provider names it; a later one replaces what it has."""

    model: str
    service_tier: str | None = None
    """The tier that served the request, in the words of the request."""
    system_fingerprint: str | None = None
    """The provider's name for the configuration of its servers."""


class FinishChunk(_ChoiceChunk, tag="finish"):
    """The reason why the model stopped; no content of its choice follows, and a choice has exactly one."""

    reason: FinishReason
    stop_sequence: str | None = None
    """The stop sequence that the model wrote, if the provider names it."""


class IgnoredChunk(_Chunk, tag="ignored"):
    """Fields of the request that the handler has left out, as paths with ``[]`` for an index.

    A stream may yield it before its content: clients receive the names in the header ``X-Ignored-Fields``.
    """

    fields: list[str]


class UsageChunk(_Chunk, tag="usage"):
    """The token counts of the response; if a stream has several, the last one counts."""

    usage: Usage


ChoiceChunk = TextChunk | ReasoningChunk | RefusalChunk | ToolCallChunk | CitationChunk | LogprobsChunk | FinishChunk
"""One item of one response; the other kinds of chunks belong to all responses to a request."""
ChatChunk = ChoiceChunk | ModelChunk | UsageChunk | IgnoredChunk
"""One item of a chat's stream. Consumers must skip kinds and fields that they do not know."""


class ChatChoice(_Model, kw_only=True):
    """A response of the model, without what several responses to one request share.

    ``content`` has the parts in the order in which the model made them.
    """

    content: list[ResponsePart]
    finish_reason: FinishReason
    stop_sequence: str | None = None
    logprobs: list[TokenLogprob] | None = None
    """Log probabilities of the tokens of the text, if the request asks for them."""
    citations: list[Citation] | None = None
    """Sources of the text."""

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


class ChatResponse(ChatChoice):
    """A whole response: the chunks of a stream, accumulated."""

    usage: Usage | None
    model: str | None = None
    service_tier: str | None = None
    system_fingerprint: str | None = None
    ignored: list[str] | None = None
    """Fields of the request that the handler has left out."""
    alternatives: list[ChatChoice] | None = None
    """The further responses to a request with an ``n``."""

    @property
    def choices(self) -> list[ChatChoice]:
        """All responses to the request, this one first."""
        return [self, *(self.alternatives or ())]


def _joined(parts: Iterable[ResponsePart], kind: type[TextPart | RefusalPart]) -> str | None:
    texts = [part.text for part in parts if isinstance(part, kind)]
    return "".join(texts) if texts else None


def _tool_calls(parts: Iterable[ResponsePart]) -> list[ToolCall]:
    return [
        ToolCall(id=part.id, function=FunctionCall(name=part.name, arguments=part.arguments), signature=part.signature)
        for part in parts
        if isinstance(part, ToolCallPart)
    ]


def content_text(content: str | Sequence[TextPart | MediaPart | ResponsePart] | None) -> str:
    """Return the text in a message's content, without its images and documents."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content if isinstance(part, TextPart))
