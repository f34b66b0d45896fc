"""From the chunks of OpenAI's stream to pieces of a chat."""

from __future__ import annotations

import msgspec

from handler_host.chat import ChatChunk, FinishReason, ToolCallDelta, Usage
from handler_host.plugin import UpstreamError

_FINISHES: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_NOTHING = ChatChunk()


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
    """What a chat needs of a chunk; compatible servers leave out or set to null what they have not."""

    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None


def piece_of(data: object) -> ChatChunk | None:
    """Return what a chunk carries, or None if that is nothing; raises ``UpstreamError`` for what is no chunk."""
    try:
        chunk = msgspec.convert(data, _Chunk)
    except msgspec.ValidationError as error:
        raise UpstreamError(f"the provider sent a chunk that is not one of OpenAI's: {error}") from error
    piece = ChatChunk()
    if chunk.usage is not None:
        piece.usage = Usage(
            prompt_tokens=chunk.usage.prompt_tokens or 0,
            completion_tokens=chunk.usage.completion_tokens or 0,
            total_tokens=chunk.usage.total_tokens or 0,
        )
    for choice in chunk.choices or ():
        if choice.delta is not None:
            piece.text = choice.delta.content or None
            piece.refusal = choice.delta.refusal or None
            piece.tool_calls = [_call(call) for call in choice.delta.tool_calls or ()] or None
        if choice.finish_reason is not None:
            piece.finish_reason = _FINISHES.get(choice.finish_reason, "stop")
    if piece == _NOTHING:
        return None
    piece.model = chunk.model or None
    return piece


def _call(call: _ToolCall) -> ToolCallDelta:
    function = call.function or _Function()
    return ToolCallDelta(index=call.index or 0, id=call.id, name=function.name, arguments=function.arguments or "")
