"""From the chunks of Gemini's stream to those of a chat. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from handler_host.chat import (
    ChatChunk,
    CitationChunk,
    FinishChunk,
    FinishReason,
    LogprobsChunk,
    ModelChunk,
    ReasoningChunk,
    TextChunk,
    ToolCallChunk,
    Usage,
    UsageChunk,
    raise_truncated,
)
from handler_host.plugin import ContentRefused, UpstreamError

if TYPE_CHECKING:
    from gpt_c.backend import Chunk, Source

FORMAT = "gemini"
"""Format of Gemini's thought signatures."""

_FINISH_REASONS: dict[str, FinishReason] = {
    "STOP": "stop",
    # Not Google's, but used by compatible servers for a function call.
    "FUNCTION_CALL": "tool_calls",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}
"""Finish reasons of Google for whole responses; any other reason means that the response failed."""


class ChunkDecoder:
    """Decoder of one stream, of so many candidates."""

    def __init__(self, candidates: int) -> None:
        self._candidates = [_Candidate(number) for number in range(candidates)]
        self._usage: Usage | None = None
        self._model: str | None = None
        self._sent_model: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the finish reasons of all candidates have come."""
        return all(candidate.finish is not None for candidate in self._candidates)

    def chunks(self, data: Chunk) -> list[ChatChunk]:
        """Return the content of a chunk, and keep the rest for :meth:`last`; raises ``ContentRefused``."""
        if data.blocked is not None:
            raise ContentRefused(f"the provider refused the prompt: {data.blocked}")
        # Each chunk includes the counts of those before it.
        self._usage = data.usage or self._usage
        self._model = data.model or self._model
        if not 0 <= data.candidate < len(self._candidates):
            return []  # it was not requested
        chunks = self._candidates[data.candidate].chunks(data)
        return [*self._new_model(), *chunks] if chunks else []

    def last(self) -> list[ChatChunk]:
        """Return model, citations, finish reasons and usage; raises ``UpstreamError`` if the response was cut off."""
        # A server that knows one candidate only has sent the first one.
        candidates = [candidate for candidate in self._candidates[1:] if candidate.has_started]
        ends = [chunk for candidate in (self._candidates[0], *candidates) for chunk in candidate.last()]
        usage = [UsageChunk(usage=self._usage)] if self._usage is not None else []
        return [*self._new_model(), *ends, *usage]

    def _new_model(self) -> list[ChatChunk]:
        if self._model is None or self._model == self._sent_model:
            return []
        self._sent_model = self._model
        return [ModelChunk(model=self._model)]


class _Candidate:
    """Decoder of one candidate."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.finish: str | None = None
        """Google's word for the reason of the end."""
        self.has_started = False
        self._calls = 0
        self._texts: list[str] = []
        self._sources: dict[Source, None] = {}
        """Sources of the text; Google repeats them."""

    def chunks(self, data: Chunk) -> list[ChatChunk]:
        """Return the content of a chunk."""
        self.has_started = True
        self.finish = data.finish or self.finish
        self._texts.append(data.text)
        self._sources |= dict.fromkeys(data.sources)
        choice = self._number
        chunks: list[ChatChunk] = []
        if data.thought:
            chunks.append(ReasoningChunk(text=data.thought, format=FORMAT, choice=choice))
        if data.logprobs:
            chunks.append(LogprobsChunk(content=list(data.logprobs), choice=choice))
        if data.text:
            chunks.append(TextChunk(text=data.text, choice=choice))
        for call in data.calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            chunks.append(
                ToolCallChunk(
                    index=self._calls,
                    id=call.id,
                    name=call.name,
                    arguments=arguments,
                    signature=call.signature,
                    choice=choice,
                )
            )
            self._calls += 1
        return chunks

    def last(self) -> list[ChatChunk]:
        """Return citations and finish reason; raises ``UpstreamError`` if the candidate was cut off."""
        if self.finish is None:
            raise_truncated()
        reason = _FINISH_REASONS.get(self.finish)
        if reason is None:
            raise UpstreamError(f"the provider stopped before the response was complete: {self.finish}")
        # The caller has imported it for the chunks.
        from gpt_c.backend import citations_of

        citations = citations_of(self._sources, "".join(self._texts))
        reason = "tool_calls" if self._calls and reason == "stop" else reason
        return [
            *(CitationChunk(citation=citation, choice=self._number) for citation in citations),
            FinishChunk(reason=reason, choice=self._number),
        ]
