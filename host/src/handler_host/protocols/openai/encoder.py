"""Chunks of a stream for clients of OpenAI's chat completions. Pure."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import UNSET

from handler_host.chat import types as chat
from handler_host.protocols.custom_tools import custom_input
from handler_host.protocols.openai.reasoning_details import DetailEncoder
from handler_host.protocols.openai.responses import (
    Chunk,
    ChunkChoice,
    Custom,
    Delta,
    Function,
    Logprobs,
    ToolCall,
    extra_content,
    to_usage,
    url_annotations,
)
from handler_host.protocols.stream_state import StreamState


class ChunkEncoder:
    """Makes the chunks of one stream in OpenAI's form from those of a handler."""

    def __init__(
        self, *, completion_id: str, created: int, model: str, include_usage: bool, custom: Collection[str] = ()
    ) -> None:
        self._id = completion_id
        self._created = created
        self._include_usage = include_usage
        self._state = StreamState(model, lambda number: _ChoiceEncoder(number, custom))

    def chunks(self, chunk: chat.ChatChunk) -> list[Chunk]:
        """Return the chunks to send for one chunk of the handler: mostly one, and none for model and usage."""
        own = self._state.choice_chunk(chunk)
        if own is None:
            return []
        return [self._chunk([part]) for part in self._state.choices[own.choice].parts(own)]

    def last(self) -> list[Chunk]:
        """Return the chunks to send after the handler's last one."""
        chunks = [self._chunk([part]) for choice in self._state.choices.values() for part in choice.finish("stop")]
        # A response without usage has no such chunk: zeros would be counts.
        if self._include_usage and self._state.usage is not None:
            chunk = self._chunk([])
            chunk.usage = to_usage(self._state.usage)
            chunks.append(chunk)
        return chunks

    def _chunk(self, choices: list[ChunkChoice]) -> Chunk:
        return Chunk(
            id=self._id,
            created=self._created,
            model=self._state.model,
            choices=choices,
            usage=None if self._include_usage else UNSET,
            service_tier=self._state.service_tier or UNSET,
            system_fingerprint=self._state.system_fingerprint or UNSET,
        )


class _ChoiceEncoder:
    """Makes the parts of one choice; ``custom`` are the names of the tools that take free text."""

    def __init__(self, number: int, custom: Collection[str]) -> None:
        self._number = number
        self._custom = custom
        self._custom_calls: dict[int, _CustomCall] = {}
        """Calls of tools that take free text, which are sent whole, by their index."""
        self._details = DetailEncoder()
        self._logprobs: list[chat.TokenLogprob] = []
        """Log probabilities for the next part."""
        self._text_length = 0
        self._has_started = False
        self._has_finished = False

    def parts(self, chunk: chat.ChoiceChunk) -> list[ChunkChoice]:
        """Return the parts to send for one chunk of the handler, each in a chunk of its own."""
        match chunk:
            case chat.TextChunk():
                self._text_length += len(chunk.text)
                return self._with_start(Delta(content=chunk.text))
            case chat.ToolCallChunk():
                return self._add_call(chunk)
            case chat.RefusalChunk():
                return self._with_start(Delta(refusal=chunk.text))
            case chat.CitationChunk():
                sources = url_annotations([chunk.citation], self._text_length)
                return self._with_start(Delta(annotations=sources)) if sources else []
            case chat.FinishChunk():
                return self.finish(chunk.reason)
            case chat.LogprobsChunk():
                self._logprobs += chunk.content
            case chat.ReasoningChunk():
                details = self._details.details(chunk)
                if chunk.text or details:
                    text = chunk.text or UNSET
                    return self._with_start(Delta(reasoning_content=text, reasoning_details=details or UNSET))
        return []

    def finish(self, reason: chat.FinishReason) -> list[ChunkChoice]:
        """Return the parts at the end of the choice, unless it has ended before."""
        if self._has_finished:
            return []
        self._has_finished = True
        custom = [self._with_start(Delta(tool_calls=[call.whole()])) for call in self._custom_calls.values()]
        return [*(part for parts in custom for part in parts), *self._with_start(Delta(), reason)]

    def _add_call(self, chunk: chat.ToolCallChunk) -> list[ChunkChoice]:
        call = self._custom_calls.get(chunk.index)
        if call is None and chunk.name in self._custom:
            call = self._custom_calls[chunk.index] = _CustomCall(chunk)
        if call is None:
            return self._with_start(Delta(tool_calls=[_tool_call(chunk)]))
        call.arguments.append(chunk.arguments)
        return []

    def _with_start(self, delta: Delta, reason: chat.FinishReason | None = None) -> list[ChunkChoice]:
        """Return the part of a delta, after the part with the role if it is the first one."""
        part = ChunkChoice(index=self._number, delta=delta, finish_reason=reason)
        if self._logprobs:
            part.logprobs, self._logprobs = Logprobs(content=self._logprobs), []
        if self._has_started:
            return [part]
        self._has_started = True
        return [ChunkChoice(index=self._number, delta=Delta(role="assistant", content="")), part]


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


def _tool_call(chunk: chat.ToolCallChunk) -> ToolCall:
    return ToolCall(
        index=chunk.index,
        id=chunk.id if chunk.id is not None else UNSET,
        type="function" if chunk.id is not None else UNSET,
        function=Function(name=chunk.name if chunk.name is not None else UNSET, arguments=chunk.arguments),
        extra_content=extra_content(chunk.signature),
    )
