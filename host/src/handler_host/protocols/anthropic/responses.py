"""Responses for clients of Anthropic's messages, made from the types of ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from handler_host.chat import types as chat
from handler_host.chat.call_arguments import arguments_of
from handler_host.config.model_info import ModelInfo
from handler_host.protocols.anthropic import FORMAT
from handler_host.protocols.opaque import CALL_FORMAT, seal

STOP_REASONS: dict[chat.FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
SERVICE_TIERS = {"default": "standard", "priority": "priority"}
"""Anthropic's word for each tier of a response."""


class _Response(msgspec.Struct, kw_only=True):
    """Base of responses: JSON has null for None, and leaves UNSET out."""


class OutputDetails(_Response, kw_only=True):
    """The part of the output tokens that is reasoning."""

    thinking_tokens: int


class Usage(_Response, kw_only=True):
    """Token counts; the input tokens are those that were neither read from the cache nor written to it."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | UnsetType = UNSET
    cache_read_input_tokens: int | UnsetType = UNSET
    output_tokens_details: OutputDetails | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET


class WebCitation(_Response, tag_field="type", tag="web_search_result_location", kw_only=True):
    """A source of a text."""

    cited_text: str
    encrypted_index: str = ""
    title: str | None
    url: str


class Text(_Response, tag_field="type", tag="text", kw_only=True):
    """A block of text."""

    text: str
    citations: list[WebCitation] | UnsetType = UNSET


class Thinking(_Response, tag_field="type", tag="thinking", kw_only=True):
    """A block of reasoning."""

    thinking: str
    signature: str


class RedactedThinking(_Response, tag_field="type", tag="redacted_thinking", kw_only=True):
    """A block of encrypted reasoning."""

    data: str


class ToolUse(_Response, tag_field="type", tag="tool_use", kw_only=True):
    """A tool call."""

    id: str
    name: str
    input: dict[str, Any]


Block = Text | Thinking | RedactedThinking | ToolUse


class StopDetails(_Response, tag_field="type", tag="refusal", kw_only=True):
    """The words in which a model refused."""

    category: None = None
    explanation: str


class Message(_Response, tag_field="type", tag="message", kw_only=True):
    """A whole response, or its head at the start of a stream."""

    id: str
    role: str = "assistant"
    model: str
    content: list[Block]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None
    usage: Usage


class MessageStart(_Response, tag_field="type", tag="message_start", kw_only=True):
    """The first event of a stream."""

    message: Message


class Ping(_Response, tag_field="type", tag="ping", kw_only=True):
    """An event without content."""


class BlockStart(_Response, tag_field="type", tag="content_block_start", kw_only=True):
    """The start of a block."""

    index: int
    content_block: Block


class TextDelta(_Response, tag_field="type", tag="text_delta", kw_only=True):
    """The next part of a text."""

    text: str


class ThinkingDelta(_Response, tag_field="type", tag="thinking_delta", kw_only=True):
    """The next part of a reasoning."""

    thinking: str


class SignatureDelta(_Response, tag_field="type", tag="signature_delta", kw_only=True):
    """The signature of a reasoning."""

    signature: str


class InputDelta(_Response, tag_field="type", tag="input_json_delta", kw_only=True):
    """The next part of a tool call's arguments, as JSON."""

    partial_json: str


class CitationsDelta(_Response, tag_field="type", tag="citations_delta", kw_only=True):
    """The next source of a text."""

    citation: WebCitation


class BlockDelta(_Response, tag_field="type", tag="content_block_delta", kw_only=True):
    """The next part of a block."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta | CitationsDelta


class BlockStop(_Response, tag_field="type", tag="content_block_stop", kw_only=True):
    """The end of a block."""

    index: int


class Stop(_Response, kw_only=True):
    """The reason why the model stopped."""

    stop_reason: str
    stop_sequence: str | None = None
    stop_details: StopDetails | UnsetType = UNSET


class MessageDelta(_Response, tag_field="type", tag="message_delta", kw_only=True):
    """The last event but one."""

    delta: Stop
    usage: Usage


class MessageStop(_Response, tag_field="type", tag="message_stop", kw_only=True):
    """The last event."""


class TokenCount(_Response, kw_only=True):
    """The token count of a request."""

    input_tokens: int


class Model(_Response, tag_field="type", tag="model", kw_only=True):
    """A handler, as a client of Anthropic sees it."""

    id: str
    display_name: str
    created_at: str
    lifecycle: str = "active"
    max_input_tokens: int | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET
    """Longest response."""
    capabilities: dict[str, Any] | UnsetType = UNSET


class ModelPage(_Response, kw_only=True):
    """All models, on one page."""

    data: list[Model]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


Event = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


def model(name: str, title: str, created: int, info: ModelInfo | None) -> Model:
    """Return a model; ``created`` is in seconds since 1970."""
    info = info or ModelInfo()
    return Model(
        id=name,
        display_name=title,
        created_at=datetime.fromtimestamp(created, UTC).isoformat(),
        max_input_tokens=UNSET if info.context_length is None else info.context_length,
        max_tokens=UNSET if info.max_output_tokens is None else info.max_output_tokens,
        capabilities=_capabilities(info) if info.capabilities else UNSET,
    )


def _capabilities(info: ModelInfo) -> dict[str, Any]:
    """Return Anthropic's capabilities, all of them as its SDKs require; those that no key has count as unsupported."""
    reasons = _support("reasoning" in info.capabilities)
    unknown = _support(False)
    return {
        "batch": unknown,
        "citations": unknown,
        "code_execution": unknown,
        "context_management": unknown,
        "effort": {**reasons, **dict.fromkeys(("low", "medium", "high", "xhigh", "max"), reasons)},
        "image_input": _support("image" in info.input),
        "pdf_input": _support("file" in info.input),
        "server_tools": {**unknown, "code_execution": unknown, "web_search": unknown},
        "structured_outputs": _support("structured_output" in info.capabilities),
        "thinking": {
            **reasons,
            "types": {"adaptive": reasons, "between_tools": unknown, "disabled": _support(True), "enabled": reasons},
        },
    }


def _support(is_supported: bool) -> dict[str, bool]:
    return {"supported": is_supported}


def model_page(models: list[Model]) -> ModelPage:
    """Return all models."""
    return ModelPage(
        data=models,
        first_id=models[0].id if models else None,
        last_id=models[-1].id if models else None,
    )


def message(response: chat.ChatResponse, *, message_id: str, model: str) -> Message:
    """Return a whole response; ``model`` is the requested one, for a handler that does not name its model."""
    content: list[Block] = []
    for part in response.content:
        match part:
            case chat.TextPart() if part.text:
                content.append(Text(text=part.text))
            case chat.ToolCallPart():
                content += [*signature_blocks(part.signature), _tool_use(part)]
            case chat.ReasoningPart() if part.encrypted is not None and not part.text:
                content.append(RedactedThinking(data=seal(part, FORMAT)))
            case chat.ReasoningPart():
                content.append(Thinking(thinking=part.text, signature=seal(part, FORMAT)))
            case _:
                pass  # a refusal goes into the stop details
    texts = [block for block in content if isinstance(block, Text)]
    citations = [citation for source in response.citations or () if (citation := web_citation(source)) is not None]
    if texts and citations:
        texts[-1].citations = citations
    refusal = response.refusal
    return Message(
        id=message_id,
        model=response.model or model,
        content=content,
        stop_reason=stop_reason_of(response.finish_reason, refusal, response.stop_sequence),
        stop_sequence=response.stop_sequence,
        stop_details=StopDetails(explanation=refusal) if refusal else None,
        usage=usage_of(response.usage or chat.Usage(), response.service_tier),
    )


def web_citation(citation: chat.Citation) -> WebCitation | None:
    """Return a citation, or None for a source without a URL: the other kinds refer to documents of the request."""
    if citation.url is None:
        return None
    return WebCitation(cited_text=citation.quote or "", title=citation.title, url=citation.url)


def _tool_use(call: chat.ToolCallPart) -> ToolUse:
    return ToolUse(id=call.id, name=call.name, input=arguments_of(call.arguments))


def signature_blocks(signature: str | None) -> list[Block]:
    """Return the block for the signature of the next call: clients send it back, as they must for reasoning."""
    if signature is None:
        return []
    return [RedactedThinking(data=seal(chat.ReasoningPart(encrypted=signature, format=CALL_FORMAT), FORMAT))]


def stop_reason_of(finish: chat.FinishReason, refusal: str | None, stop_sequence: str | None) -> str:
    """Return Anthropic's stop reason: a model that refuses in words may have finished as usual."""
    if refusal:
        return "refusal"
    return "stop_sequence" if finish == "stop" and stop_sequence is not None else STOP_REASONS[finish]


def usage_of(usage: chat.Usage, service_tier: str | None = None) -> Usage:
    """Return token counts in Anthropic's form, which have the tier of the response."""
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    shape = Usage(input_tokens=max(0, usage.prompt_tokens - cached - written), output_tokens=usage.completion_tokens)
    if cached or written:
        shape.cache_read_input_tokens, shape.cache_creation_input_tokens = cached, written
    if usage.reasoning_tokens:
        shape.output_tokens_details = OutputDetails(thinking_tokens=usage.reasoning_tokens)
    shape.service_tier = SERVICE_TIERS.get(service_tier or "", UNSET)
    return shape
