"""Responses for clients of Gemini's generateContent, made from the types of ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from handler_host.chat import types as chat
from handler_host.chat.conversion import accumulate, to_chunks
from handler_host.protocols.gemini import FORMAT
from handler_host.protocols.gemini.enum_format import enum_word
from handler_host.protocols.gemini.responses import (
    Candidate,
    Content,
    FunctionCall,
    GenerateContentResponse,
    GroundingChunk,
    GroundingMetadata,
    GroundingSupport,
    LogprobsCandidate,
    LogprobsResult,
    Part,
    RetrievedContext,
    Segment,
    TopCandidates,
    UsageMetadata,
    Web,
)
from handler_host.protocols.opaque import seal_base64, seal_parts
from handler_host.protocols.stream_state import StreamState

FINISHES = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
MALFORMED_CALL = "MALFORMED_FUNCTION_CALL"
"""Google's finish reason for a function call whose arguments are not a JSON object."""
SERVICE_TIERS = {"default": "standard", "flex": "flex", "priority": "priority"}
"""Google's word for each tier of a response."""
MAX_SEGMENT = 2000
"""Characters of the longest cited text that is repeated beside its place: many long ones would be quadratic."""


def response(
    whole: chat.ChatResponse, *, response_id: str, model: str, is_enum: bool = False
) -> GenerateContentResponse:
    """Return a whole response; the parameters are those of :class:`ChunkEncoder`."""
    encoder = ChunkEncoder(response_id=response_id, model=model, is_enum=is_enum)
    parts: list[list[Part]] = [[] for _ in whole.choices]
    for chunk in to_chunks(whole):
        for candidate in encoder.candidates(chunk):
            parts[candidate.index] += candidate.content.parts
    last = encoder.last()
    for candidate in last.candidates:
        candidate.content.parts[:0] = parts[candidate.index]
    return last


class ChunkEncoder:
    """Makes the chunks of one stream in Gemini's form from those of a handler.

    Text is sent at once. Calls are kept until the end, when they are whole, and so are finish reasons and usage.
    ``model`` is the requested one, for a handler that does not name its model; ``is_enum``: the client wants one of a
    few words (:mod:`enum_format`).
    """

    def __init__(self, *, response_id: str, model: str, is_enum: bool = False) -> None:
        self._id = response_id
        self._state = StreamState(model, lambda _: _CandidateEncoder(is_enum))

    def chunks(self, chunk: chat.ChatChunk) -> list[GenerateContentResponse]:
        """Return the chunks to send for one chunk of the handler: one for text, else none."""
        return [self._response([candidate]) for candidate in self.candidates(chunk)]

    def candidates(self, chunk: chat.ChatChunk) -> list[Candidate]:
        """Return the part of a candidate to send for one chunk, if any, and keep the rest for :meth:`last`."""
        own = self._state.choice_chunk(chunk)
        if own is None:
            return []
        part = self._state.choices[own.choice].part(own)
        return [] if part is None else [Candidate(content=Content(parts=[part]), index=own.choice)]

    def last(self) -> GenerateContentResponse:
        """Return the chunk to send after the handler's last one: calls, finish reasons and usage."""
        last = self._response([candidate.last(number) for number, candidate in sorted(self._state.choices.items())])
        if self._state.usage is not None:
            last.usage_metadata = _usage(self._state.usage, self._state.service_tier)
        return last

    def _response(self, candidates: list[Candidate]) -> GenerateContentResponse:
        return GenerateContentResponse(candidates=candidates, model_version=self._state.model, response_id=self._id)


class _CandidateEncoder:
    """Makes the parts of one candidate."""

    def __init__(self, is_enum: bool) -> None:
        self._is_enum = is_enum
        self._rest: list[chat.ChatChunk] = []
        """Chunks that are sent at the end."""
        self._texts: list[str] = []

    def part(self, chunk: chat.ChoiceChunk) -> Part | None:
        """Return the part to send for one chunk, or None, and keep the rest for :meth:`last`."""
        match chunk:
            case chat.TextChunk() | chat.RefusalChunk():
                self._texts.append(chunk.text)
                return Part(text=chunk.text) if chunk.text and not self._is_enum else None
            case chat.ReasoningChunk():
                self._rest.append(chunk)
                signature = (
                    seal_base64(chunk, FORMAT) if chunk.signature is not None or chunk.encrypted is not None else UNSET
                )
                return Part(text=chunk.text, thought=True, thought_signature=signature)
        self._rest.append(chunk)
        return None

    def last(self, number: int) -> Candidate:
        """Return the end of the candidate with this number: calls and finish reason."""
        rest = accumulate(self._rest).choices[-1]  # the chunks are of one choice
        calls = [_call_part(call) for call in rest.tool_calls]
        foreign = [part for part in rest.content if isinstance(part, chat.ReasoningPart) and part.format != FORMAT]
        if any(part.signature or part.encrypted for part in foreign) and calls and calls[0] is not None:
            calls[0].thought_signature = seal_parts(foreign)  # Gemini CLI sends back calls, but no thoughts
        parts = [Part(text=enum_word("".join(self._texts)))] if self._is_enum and self._texts else []
        parts += [part for part in calls if part is not None]
        last = Candidate(content=Content(parts=parts), index=number)
        last.finish_reason = MALFORMED_CALL if None in calls else FINISHES[rest.finish_reason]
        if rest.logprobs:
            last.logprobs_result = _logprobs(rest.logprobs)
            last.avg_logprobs = sum(token.logprob for token in rest.logprobs) / len(rest.logprobs)
        if rest.citations:
            last.grounding_metadata = _grounding(rest.citations, "".join(self._texts))
        return last


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


def _usage(usage: chat.Usage, service_tier: str | None) -> UsageMetadata:
    return UsageMetadata(
        prompt_token_count=usage.prompt_tokens,
        candidates_token_count=max(0, usage.completion_tokens - usage.reasoning_tokens),
        total_token_count=usage.total_tokens or usage.prompt_tokens + usage.completion_tokens,
        cached_content_token_count=usage.cached_tokens or UNSET,
        thoughts_token_count=usage.reasoning_tokens or UNSET,
        service_tier=SERVICE_TIERS.get(service_tier or "", UNSET),
    )


def _call_part(call: chat.ToolCall) -> Part | None:
    """Return a call, or None if its arguments are not a JSON object, which models produce now and then."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    function_call = FunctionCall(id=call.id or UNSET, name=call.function.name, args=arguments)
    return Part(function_call=function_call, thought_signature=call.signature or UNSET)
