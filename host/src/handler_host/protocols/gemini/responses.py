"""Responses for clients of Gemini's generateContent, made from the types of ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from handler_host.chat import types as chat
from handler_host.chat.conversion import accumulate, to_chunks
from handler_host.config.model_info import ModelInfo
from handler_host.lifecycle.reports import HandlerStatus
from handler_host.protocols.gemini import FORMAT
from handler_host.protocols.opaque import seal_base64, seal_parts

FINISHES = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
MALFORMED_CALL = "MALFORMED_FUNCTION_CALL"
"""Google's finish reason for a function call whose arguments are not a JSON object."""
MAX_SEGMENT = 2000
"""Characters of the longest cited text that is repeated beside its place: many long ones would be quadratic."""


class _Response(msgspec.Struct, kw_only=True, rename="camel"):
    """Base of responses: JSON leaves UNSET out."""


class FunctionCall(_Response, kw_only=True):
    """A whole call: Gemini does not send calls in parts."""

    id: str | UnsetType = UNSET
    name: str
    args: dict[str, Any]


class Part(_Response, kw_only=True):
    """A text, a thought or a call."""

    text: str | UnsetType = UNSET
    function_call: FunctionCall | UnsetType = UNSET
    thought: bool | UnsetType = UNSET
    thought_signature: str | UnsetType = UNSET


class Content(_Response, kw_only=True):
    """The parts of a response."""

    parts: list[Part]
    role: str = "model"


class LogprobsCandidate(_Response, kw_only=True):
    """A token and the logarithm of its probability."""

    token: str
    log_probability: float


class TopCandidates(_Response, kw_only=True):
    """The most probable tokens of one place."""

    candidates: list[LogprobsCandidate]


class LogprobsResult(_Response, kw_only=True):
    """Log probabilities of the tokens that were written, and of the most probable ones at their places."""

    chosen_candidates: list[LogprobsCandidate]
    top_candidates: list[TopCandidates]


class Web(_Response, kw_only=True):
    """A page."""

    uri: str
    title: str | UnsetType = UNSET


class RetrievedContext(_Response, kw_only=True):
    """A document."""

    title: str | UnsetType = UNSET
    text: str | UnsetType = UNSET


class GroundingChunk(_Response, kw_only=True):
    """A source of the text."""

    web: Web | UnsetType = UNSET
    retrieved_context: RetrievedContext | UnsetType = UNSET


class Segment(_Response, kw_only=True):
    """A place in the text, in bytes of UTF-8, with the text there unless it is long; the end is exclusive."""

    start_index: int
    end_index: int
    text: str | UnsetType = UNSET


class GroundingSupport(_Response, kw_only=True):
    """The sources of one segment, by their index."""

    segment: Segment
    grounding_chunk_indices: list[int]


class GroundingMetadata(_Response, kw_only=True):
    """The sources of the text."""

    grounding_chunks: list[GroundingChunk]
    grounding_supports: list[GroundingSupport]


class Candidate(_Response, kw_only=True):
    """The only candidate."""

    content: Content
    avg_logprobs: float | UnsetType = UNSET
    logprobs_result: LogprobsResult | UnsetType = UNSET
    grounding_metadata: GroundingMetadata | UnsetType = UNSET
    finish_reason: str | UnsetType = UNSET
    index: int = 0


class UsageMetadata(_Response, kw_only=True):
    """Token counts; those of the candidates are without the thoughts, those of the prompt with the cached ones."""

    prompt_token_count: int
    candidates_token_count: int
    total_token_count: int
    cached_content_token_count: int | UnsetType = UNSET
    thoughts_token_count: int | UnsetType = UNSET


class GenerateContentResponse(_Response, kw_only=True):
    """A whole response, or a chunk of a stream."""

    candidates: list[Candidate]
    usage_metadata: UsageMetadata | UnsetType = UNSET
    model_version: str
    response_id: str


class CountTokensResponse(_Response, kw_only=True):
    """The token count of a request."""

    total_tokens: int


class Model(_Response, kw_only=True):
    """A handler, as a client of Gemini sees it."""

    name: str
    version: str
    display_name: str
    description: str
    supported_generation_methods: list[str]
    input_token_limit: int | UnsetType = UNSET
    output_token_limit: int | UnsetType = UNSET
    thinking: bool | UnsetType = UNSET


class ModelList(_Response, kw_only=True):
    """All models, on one page."""

    models: list[Model]


def model(status: HandlerStatus, name: str, title: str, methods: list[str], info: ModelInfo | None) -> Model:
    """Return a handler as a model, under the requested name."""
    info = info or ModelInfo()
    return Model(
        name=f"models/{name}",
        version=status.version,
        display_name=title,
        description=status.description,
        supported_generation_methods=methods,
        input_token_limit=UNSET if info.context_length is None else info.context_length,
        output_token_limit=UNSET if info.max_output_tokens is None else info.max_output_tokens,
        thinking="reasoning" in info.capabilities if info.capabilities else UNSET,
    )


def response(whole: chat.ChatResponse, *, response_id: str, model: str) -> GenerateContentResponse:
    """Return a whole response; ``model`` is the requested one, for a handler that does not name its model."""
    encoder = ChunkEncoder(response_id=response_id, model=model)
    parts = [part for chunk in to_chunks(whole) for part in encoder.parts(chunk)]
    last = encoder.last()
    last.candidates[0].content.parts[:0] = parts
    return last


class ChunkEncoder:
    """Makes the chunks of one stream in Gemini's form from those of a handler.

    Text is sent at once. Calls are kept until the end, when they are whole, and so are finish reason and usage.
    """

    def __init__(self, *, response_id: str, model: str) -> None:
        self._id = response_id
        self._model = model
        self._rest: list[chat.ChatChunk] = []
        """Chunks that are sent at the end."""
        self._texts: list[str] = []

    def chunks(self, chunk: chat.ChatChunk) -> list[GenerateContentResponse]:
        """Return the chunks to send for one chunk of the handler: one for text, else none."""
        return [self._chunk([part]) for part in self.parts(chunk)]

    def parts(self, chunk: chat.ChatChunk) -> list[Part]:
        """Return the parts to send for one chunk, and keep the rest for :meth:`last`."""
        match chunk:
            case chat.TextChunk() | chat.RefusalChunk():
                self._texts.append(chunk.text)
                return [Part(text=chunk.text)] if chunk.text else []
            case chat.ModelChunk():
                self._model = chunk.model
            case chat.ReasoningChunk():
                self._rest.append(chunk)
                signature = (
                    seal_base64(chunk, FORMAT) if chunk.signature is not None or chunk.encrypted is not None else UNSET
                )
                return [Part(text=chunk.text, thought=True, thought_signature=signature)]
            case chat.IgnoredChunk():
                pass
            case _:
                self._rest.append(chunk)
        return []

    def last(self) -> GenerateContentResponse:
        """Return the chunk to send after the handler's last one: calls, finish reason and usage."""
        rest = accumulate(self._rest)
        calls = [_call_part(call) for call in rest.tool_calls]
        foreign = [part for part in rest.content if isinstance(part, chat.ReasoningPart) and part.format != FORMAT]
        if any(part.signature or part.encrypted for part in foreign) and calls and calls[0] is not None:
            calls[0].thought_signature = seal_parts(foreign)  # Gemini CLI sends back calls, but no thoughts
        last = self._chunk([part for part in calls if part is not None])
        last.candidates[0].finish_reason = MALFORMED_CALL if None in calls else FINISHES[rest.finish_reason]
        if rest.logprobs:
            last.candidates[0].logprobs_result = _logprobs(rest.logprobs)
            last.candidates[0].avg_logprobs = sum(token.logprob for token in rest.logprobs) / len(rest.logprobs)
        if rest.citations:
            last.candidates[0].grounding_metadata = _grounding(rest.citations, "".join(self._texts))
        if rest.usage is not None:
            last.usage_metadata = _usage(rest.usage)
        return last

    def _chunk(self, parts: list[Part]) -> GenerateContentResponse:
        return GenerateContentResponse(
            candidates=[Candidate(content=Content(parts=parts))], model_version=self._model, response_id=self._id
        )


def _logprobs(tokens: list[chat.TokenLogprob]) -> LogprobsResult:
    return LogprobsResult(
        chosen_candidates=[LogprobsCandidate(token=token.token, log_probability=token.logprob) for token in tokens],
        top_candidates=[
            TopCandidates(
                candidates=[
                    LogprobsCandidate(token=top.token, log_probability=top.logprob) for top in token.top_logprobs
                ]
            )
            for token in tokens
        ],
    )


def _grounding(citations: list[chat.Citation], text: str) -> GroundingMetadata:
    metadata = GroundingMetadata(grounding_chunks=[], grounding_supports=[])
    indices: dict[tuple[str | None, ...], int] = {}
    offsets = _byte_offsets(text, (place for each in citations for place in (each.start_index, each.end_index)))
    for citation in citations:
        source = (citation.url, citation.title, None if citation.url is not None else citation.quote)
        if source not in indices:
            indices[source] = len(metadata.grounding_chunks)
            metadata.grounding_chunks.append(_grounding_chunk(citation))
        start, end = citation.start_index, citation.end_index
        if start is not None and end is not None:
            segment = Segment(start_index=offsets[start], end_index=offsets[end])
            if end - start <= MAX_SEGMENT:
                segment.text = text[start:end]
            metadata.grounding_supports.append(
                GroundingSupport(segment=segment, grounding_chunk_indices=[indices[source]])
            )
    return metadata


def _grounding_chunk(citation: chat.Citation) -> GroundingChunk:
    title = citation.title or UNSET
    if citation.url is not None:
        return GroundingChunk(web=Web(uri=citation.url, title=title))
    return GroundingChunk(retrieved_context=RetrievedContext(title=title, text=citation.quote or UNSET))


def _byte_offsets(text: str, places: Iterable[int | None]) -> dict[int, int]:
    """Return the place in the UTF-8 bytes of a text for each place in its characters."""
    offsets = {}
    size = previous = 0
    for place in sorted({place for place in places if place is not None}):
        size += len(text[previous:place].encode(errors="replace"))
        offsets[place], previous = size, place
    return offsets


def _usage(usage: chat.Usage) -> UsageMetadata:
    return UsageMetadata(
        prompt_token_count=usage.prompt_tokens,
        candidates_token_count=max(0, usage.completion_tokens - usage.reasoning_tokens),
        total_token_count=usage.total_tokens or usage.prompt_tokens + usage.completion_tokens,
        cached_content_token_count=usage.cached_tokens or UNSET,
        thoughts_token_count=usage.reasoning_tokens or UNSET,
    )


def _call_part(call: chat.ToolCall) -> Part | None:
    """Return a call, or None if its arguments are not a JSON object, which models produce now and then."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    function_call = FunctionCall(id=call.id or UNSET, name=call.function.name, args=arguments)
    return Part(function_call=function_call, thought_signature=call.signature or UNSET)
