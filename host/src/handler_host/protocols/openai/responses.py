"""Responses for clients of OpenAI's chat completions, made from the types of ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec
from msgspec import UNSET, UnsetType

from handler_host.chat import types as chat
from handler_host.config.model_info import ModelInfo
from handler_host.protocols.custom_tools import custom_input
from handler_host.protocols.openai.reasoning_details import DetailEncoder, ReasoningDetail
from handler_host.protocols.url_citations import UrlCitation, url_citation


class _Response(msgspec.Struct, kw_only=True):
    """Base of responses: JSON has null for None, and leaves UNSET out."""


class PromptDetails(_Response, kw_only=True):
    """The part of the input tokens that the provider's cache had."""

    cached_tokens: int
    cache_write_tokens: int | UnsetType = UNSET


class CompletionDetails(_Response, kw_only=True):
    """The part of the output tokens that is reasoning."""

    reasoning_tokens: int


class Usage(_Response, kw_only=True):
    """Token counts; details only where the provider reports them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | UnsetType = UNSET
    completion_tokens_details: CompletionDetails | UnsetType = UNSET


class Function(_Response, kw_only=True):
    """The function of a tool call, or a part of it."""

    name: str | UnsetType = UNSET
    arguments: str


class Custom(_Response, kw_only=True):
    """The call of a tool that takes free text."""

    name: str
    input: str


class GoogleContent(_Response, kw_only=True):
    """Opaque data of a Gemini model, which it needs back."""

    thought_signature: str


class ExtraContent(_Response, kw_only=True):
    """Data of a call that OpenAI's API lacks, as Google's own server for OpenAI clients has it."""

    google: GoogleContent


class ToolCall(_Response, kw_only=True):
    """A tool call; in a stream a part of one, with its ``index``."""

    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: Function | UnsetType = UNSET
    custom: Custom | UnsetType = UNSET
    extra_content: ExtraContent | UnsetType = UNSET


class Annotation(_Response, tag_field="type", tag="url_citation", kw_only=True):
    """A source of the text."""

    url_citation: UrlCitation


class Delta(_Response, kw_only=True):
    """The part of the message that a chunk adds."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning_details: list[ReasoningDetail] | UnsetType = UNSET
    refusal: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET
    annotations: list[Annotation] | UnsetType = UNSET


class Logprobs(_Response, kw_only=True):
    """Log probabilities of tokens."""

    content: list[chat.TokenLogprob]
    refusal: None = None


class ChunkChoice(_Response, kw_only=True):
    """The part of a choice that a chunk adds."""

    index: int = 0
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class Chunk(_Response, kw_only=True):
    """One event of a stream."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    service_tier: str | UnsetType = UNSET
    system_fingerprint: str | UnsetType = UNSET


class ResponseMessage(_Response, kw_only=True):
    """The message of a whole response."""

    role: str = "assistant"
    content: str | None
    reasoning_content: str | UnsetType = UNSET
    reasoning_details: list[ReasoningDetail] | UnsetType = UNSET
    refusal: str | None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET
    annotations: list[Annotation] | UnsetType = UNSET


class ResponseChoice(_Response, kw_only=True):
    """A choice of a whole response."""

    index: int = 0
    message: ResponseMessage
    logprobs: Logprobs | None = None
    finish_reason: str


class Completion(_Response, kw_only=True):
    """A whole response."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ResponseChoice]
    usage: Usage | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET
    system_fingerprint: str | UnsetType = UNSET


class Model(_Response, kw_only=True):
    """A handler, as a client of OpenAI sees it."""

    id: str
    object: str = "model"
    created: int
    owned_by: str
    context_length: int | UnsetType = UNSET
    max_output_tokens: int | UnsetType = UNSET
    architecture: dict[str, tuple[str, ...]] | UnsetType = UNSET
    capabilities: tuple[str, ...] | UnsetType = UNSET
    pricing: dict[str, str] | UnsetType = UNSET
    """US dollars for one token, as texts."""


def model(name: str, owner: str, created: int, info: ModelInfo | None) -> Model:
    """Return a model; the facts about it are in the fields of OpenRouter's list, which clients read."""
    made = Model(id=name, created=created, owned_by=owner)
    if info is None:
        return made
    if info.context_length is not None:
        made.context_length = info.context_length
    if info.max_output_tokens is not None:
        made.max_output_tokens = info.max_output_tokens
    if info.input or info.output:
        made.architecture = {"input_modalities": info.input, "output_modalities": info.output}
    if info.capabilities:
        made.capabilities = info.capabilities
    prices = {
        "prompt": info.input_price,
        "completion": info.output_price,
        "input_cache_read": info.cached_input_price,
    }
    pricing = {
        kind: f"{price / 1e6:.12f}".rstrip("0").rstrip(".") for kind, price in prices.items() if price is not None
    }
    if pricing:
        made.pricing = pricing
    return made


class ModelList(_Response, kw_only=True):
    """All models."""

    object: str = "list"
    data: list[Model]


def completion(
    response: chat.ChatResponse, *, completion_id: str, created: int, model: str, custom: Collection[str] = ()
) -> Completion:
    """Return a whole response.

    ``model`` is the requested one, for a handler that does not name its model; ``custom`` are the names of the tools
    that take free text.
    """
    return Completion(
        id=completion_id,
        created=created,
        model=response.model or model,
        choices=[_choice(number, choice, custom) for number, choice in enumerate(response.choices)],
        usage=to_usage(response.usage) if response.usage is not None else UNSET,
        service_tier=response.service_tier or UNSET,
        system_fingerprint=response.system_fingerprint or UNSET,
    )


def _choice(number: int, choice: chat.ChatChoice, custom: Collection[str]) -> ResponseChoice:
    reasoning = [part for part in choice.content if isinstance(part, chat.ReasoningPart)]
    encoder = DetailEncoder()
    message = ResponseMessage(
        content=choice.text,
        reasoning_content="".join(part.text for part in reasoning) or UNSET,
        reasoning_details=[detail for part in reasoning for detail in encoder.details(part)] or UNSET,
        refusal=choice.refusal,
        tool_calls=[_whole_call(call, call.function.name in custom) for call in choice.tool_calls] or UNSET,
        annotations=url_annotations(choice.citations or (), len(choice.text or "")) or UNSET,
    )
    return ResponseChoice(
        index=number,
        message=message,
        logprobs=Logprobs(content=choice.logprobs) if choice.logprobs is not None else None,
        finish_reason=choice.finish_reason,
    )


def _whole_call(call: chat.ToolCall, is_custom: bool) -> ToolCall:
    name, arguments = call.function.name, call.function.arguments
    if is_custom:
        return ToolCall(id=call.id, type="custom", custom=Custom(name=name, input=custom_input(arguments)))
    return ToolCall(
        id=call.id,
        type="function",
        function=Function(name=name, arguments=arguments),
        extra_content=extra_content(call.signature),
    )


def url_annotations(citations: Iterable[chat.Citation], text_length: int) -> list[Annotation]:
    """Return the sources of a text of this length that have a URL, in OpenAI's form."""
    sources = [url_citation(citation, text_length) for citation in citations]
    return [Annotation(url_citation=source) for source in sources if source is not None]


def extra_content(signature: str | None) -> ExtraContent | UnsetType:
    """Return the field with the signature of a tool call, if it has one."""
    return UNSET if signature is None else ExtraContent(google=GoogleContent(thought_signature=signature))


def to_usage(usage: chat.Usage) -> Usage:
    """Return token counts in OpenAI's form."""
    shape = Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens or usage.prompt_tokens + usage.completion_tokens,
    )
    if usage.cached_tokens or usage.cache_write_tokens:
        shape.prompt_tokens_details = PromptDetails(
            cached_tokens=usage.cached_tokens, cache_write_tokens=usage.cache_write_tokens or UNSET
        )
    if usage.reasoning_tokens:
        shape.completion_tokens_details = CompletionDetails(reasoning_tokens=usage.reasoning_tokens)
    return shape
