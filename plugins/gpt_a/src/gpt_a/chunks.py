"""From the chunks of OpenAI's stream to those of a chat."""

from __future__ import annotations

import msgspec

from handler_host.chat import (
    ChatChunk,
    FinishChunk,
    FinishReason,
    ModelChunk,
    RefusalChunk,
    TextChunk,
    ToolCallChunk,
    Usage,
    UsageChunk,
)
from handler_host.plugin import UpstreamError

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class _Chunk(msgspec.Struct):
    """The fields of a chunk that a chat needs; compatible servers leave some out, or set them to null."""

    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None


class ChunkDecoder:
    """Translates the chunks of one stream."""

    def __init__(self) -> None:
        self._model: str | None = None
        """The model of the last :class:`ModelChunk`."""

    def chunks(self, data: object) -> list[ChatChunk]:
        """Return the chat's chunks in one chunk of OpenAI's: mostly one, none if it has no content.

        Raises ``UpstreamError`` for data of another shape.
        """
        try:
            chunk = msgspec.convert(data, _Chunk)
        except msgspec.ValidationError as error:
            raise UpstreamError(f"the provider sent a chunk that is not one of OpenAI's: {error}") from error
        chunks: list[ChatChunk] = []
        for choice in chunk.choices or ():
            if choice.delta is not None:
                _add_delta(chunks, choice.delta)
            if choice.finish_reason is not None:
                chunks.append(FinishChunk(reason=_FINISH_REASONS.get(choice.finish_reason, "stop")))
        if chunk.usage is not None:
            chunks.append(UsageChunk(usage=_usage(chunk.usage)))
        # With the first content and not before it: until then the call can be retried.
        if chunks and chunk.model and chunk.model != self._model:
            self._model = chunk.model
            chunks.insert(0, ModelChunk(model=chunk.model))
        return chunks


def _add_delta(chunks: list[ChatChunk], delta: _Delta) -> None:
    if delta.content:
        chunks.append(TextChunk(text=delta.content))
    if delta.refusal:
        chunks.append(RefusalChunk(text=delta.refusal))
    for call in delta.tool_calls or ():
        function = call.function or _Function()
        chunks.append(
            ToolCallChunk(index=call.index or 0, id=call.id, name=function.name, arguments=function.arguments or "")
        )


def _usage(usage: _Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
        total_tokens=usage.total_tokens or 0,
    )
