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
    """The only choice in a chunk."""

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
    """The only choice of a whole response."""

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
    calls = [_whole_call(call, call.function.name in custom) for call in response.tool_calls]
    reasoning = [part for part in response.content if isinstance(part, chat.ReasoningPart)]
    encoder = DetailEncoder()
    message = ResponseMessage(
        content=response.text,
        reasoning_content="".join(part.text for part in reasoning) or UNSET,
        reasoning_details=[detail for part in reasoning for detail in encoder.details(part)] or UNSET,
        refusal=response.refusal,
        tool_calls=calls or UNSET,
        annotations=_annotations(response.citations or (), len(response.text or "")) or UNSET,
    )
    return Completion(
        id=completion_id,
        created=created,
        model=response.model or model,
        choices=[
            ResponseChoice(
                message=message,
                logprobs=Logprobs(content=response.logprobs) if response.logprobs is not None else None,
                finish_reason=response.finish_reason,
            )
        ],
        usage=to_usage(response.usage) if response.usage is not None else UNSET,
    )


class ChunkEncoder:
    """Makes the chunks of one stream in OpenAI's form from those of a handler."""

    def __init__(
        self, *, completion_id: str, created: int, model: str, include_usage: bool, custom: Collection[str] = ()
    ) -> None:
        self._id = completion_id
        self._created = created
        self._model = model
        self._include_usage = include_usage
        self._custom = custom
        self._custom_calls: dict[int, _CustomCall] = {}
        """Calls of tools that take free text, which are sent whole, by their index."""
        self._details = DetailEncoder()
        self._usage: chat.Usage | None = None
        self._logprobs: list[chat.TokenLogprob] = []
        """Log probabilities for the next chunk."""
        self._text_length = 0
        self._has_started = False
        self._has_finished = False

    def chunks(self, chunk: chat.ChatChunk) -> list[Chunk]:
        """Return the chunks to send for one chunk of the handler: mostly one, and none for model and usage."""
        match chunk:
            case chat.TextChunk():
                self._text_length += len(chunk.text)
                return self._with_start(Delta(content=chunk.text))
            case chat.ToolCallChunk():
                return self._add_call(chunk)
            case chat.RefusalChunk():
                return self._with_start(Delta(refusal=chunk.text))
            case chat.CitationChunk():
                annotations = _annotations([chunk.citation], self._text_length)
                return self._with_start(Delta(annotations=annotations)) if annotations else []
            case chat.FinishChunk():
                return self._finish(chunk.reason)
            case chat.LogprobsChunk():
                self._logprobs += chunk.content
            case chat.ModelChunk():
                self._model = chunk.model
            case chat.UsageChunk():
                self._usage = chunk.usage
            case chat.ReasoningChunk():
                details = self._details.details(chunk)
                if chunk.text or details:
                    text = chunk.text or UNSET
                    return self._with_start(Delta(reasoning_content=text, reasoning_details=details or UNSET))
        return []

    def last(self) -> list[Chunk]:
        """Return the chunks to send after the handler's last one."""
        chunks = self._finish("stop")
        # A response without usage has no such chunk: zeros would be counts.
        if self._include_usage and self._usage is not None:
            chunk = self._chunk(Delta())
            chunk.choices = []
            chunk.usage = to_usage(self._usage)
            chunks.append(chunk)
        return chunks

    def _add_call(self, chunk: chat.ToolCallChunk) -> list[Chunk]:
        call = self._custom_calls.get(chunk.index)
        if call is None and chunk.name in self._custom:
            call = self._custom_calls[chunk.index] = _CustomCall(chunk)
        if call is None:
            return self._with_start(Delta(tool_calls=[_tool_call(chunk)]))
        call.arguments.append(chunk.arguments)
        return []

    def _finish(self, reason: chat.FinishReason) -> list[Chunk]:
        if self._has_finished:
            return []
        self._has_finished = True
        custom = [self._with_start(Delta(tool_calls=[call.whole()])) for call in self._custom_calls.values()]
        return [*(chunk for chunks in custom for chunk in chunks), *self._with_start(Delta(), reason)]

    def _with_start(self, delta: Delta, reason: chat.FinishReason | None = None) -> list[Chunk]:
        """Return the chunk of a delta, after the chunk with the role if it is the first one."""
        chunk = self._chunk(delta, reason)
        if self._logprobs:
            chunk.choices[0].logprobs, self._logprobs = Logprobs(content=self._logprobs), []
        if self._has_started:
            return [chunk]
        self._has_started = True
        return [self._chunk(Delta(role="assistant", content="")), chunk]

    def _chunk(self, delta: Delta, reason: chat.FinishReason | None = None) -> Chunk:
        return Chunk(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[ChunkChoice(delta=delta, finish_reason=reason)],
            usage=None if self._include_usage else UNSET,
        )


class _CustomCall:
    """A call of a tool that takes free text, until its arguments are whole."""

    def __init__(self, first: chat.ToolCallChunk) -> None:
        self._first = first
        self.arguments: list[str] = []

    def whole(self) -> ToolCall:
        text = custom_input("".join(self.arguments))
        return ToolCall(
            index=self._first.index,
            id=self._first.id or "",
            type="custom",
            custom=Custom(name=self._first.name or "", input=text),
        )


def _whole_call(call: chat.ToolCall, is_custom: bool) -> ToolCall:
    name, arguments = call.function.name, call.function.arguments
    if is_custom:
        return ToolCall(id=call.id, type="custom", custom=Custom(name=name, input=custom_input(arguments)))
    return ToolCall(
        id=call.id,
        type="function",
        function=Function(name=name, arguments=arguments),
        extra_content=_extra_content(call.signature),
    )


def _tool_call(chunk: chat.ToolCallChunk) -> ToolCall:
    return ToolCall(
        index=chunk.index,
        id=chunk.id if chunk.id is not None else UNSET,
        type="function" if chunk.id is not None else UNSET,
        function=Function(name=chunk.name if chunk.name is not None else UNSET, arguments=chunk.arguments),
        extra_content=_extra_content(chunk.signature),
    )


def _annotations(citations: Iterable[chat.Citation], text_length: int) -> list[Annotation]:
    sources = [url_citation(citation, text_length) for citation in citations]
    return [Annotation(url_citation=source) for source in sources if source is not None]


def _extra_content(signature: str | None) -> ExtraContent | UnsetType:
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
