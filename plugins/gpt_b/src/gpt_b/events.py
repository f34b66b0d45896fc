"""From the events of Anthropic's stream to the chunks of a chat."""

from __future__ import annotations

from typing import Any

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
from handler_host.plugin import UpstreamError, from_status

_FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 408,
    "overloaded_error": 529,
}
"""HTTP status of each error type; a type that is not listed counts as 500."""


class _Usage(msgspec.Struct):
    """Token counts so far; a later event has higher ones, or leaves them out."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct):
    model: str | None = None
    usage: _Usage | None = None


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    id: str | None = None
    name: str | None = None
    input: Any = None


class _StopDetails(msgspec.Struct):
    explanation: str | None = None


class _Delta(msgspec.Struct):
    type: str | None = None
    text: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None


class _Error(msgspec.Struct):
    type: str = "api_error"
    message: str = ""


class _Event(msgspec.Struct):
    """Any event of the stream; unknown types and fields are skipped, as Anthropic asks its clients to do."""

    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_decoder = msgspec.json.Decoder(_Event)


class _ToolCall:
    """A tool call in progress."""

    def __init__(self, index: int, block: _Block) -> None:
        self._index = index
        self._block = block
        self._has_arguments = False

    def start(self) -> ToolCallChunk:
        return ToolCallChunk(index=self._index, id=self._block.id, name=self._block.name)

    def add(self, fragment: str) -> ToolCallChunk:
        self._has_arguments = True
        return ToolCallChunk(index=self._index, arguments=fragment)

    def stop(self) -> list[ChatChunk]:
        """Return the arguments of a call that streamed none: often ``{}``."""
        if self._has_arguments:
            return []
        arguments = msgspec.json.encode(self._block.input or {}).decode()
        return [ToolCallChunk(index=self._index, arguments=arguments)]


class EventDecoder:
    """Translates the events of one stream."""

    def __init__(self) -> None:
        self._model: str | None = None
        """The model, until its chunk is returned."""
        self._usage = _Usage()
        self._calls: dict[int, _ToolCall] = {}
        self._call_count = 0

    def chunks(self, data: str) -> list[ChatChunk]:
        """Return the chunks in the data of one event: mostly one or none.

        Raises ``UpstreamError`` for an error event, and for data that is not an event of Anthropic's.
        """
        if not data:
            return []
        try:
            event = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise UpstreamError("the provider sent an event that is not one of Anthropic's") from error
        if event.type == "error":
            raise _stream_error(event.error or _Error())
        chunks = self._translate(event)
        # With the first content and not before it: until then the call can be retried.
        if chunks and self._model is not None:
            chunks.insert(0, ModelChunk(model=self._model))
            self._model = None
        return chunks

    def _translate(self, event: _Event) -> list[ChatChunk]:
        match event.type:
            case "content_block_delta":
                return self._add(event.index, event.delta or _Delta())
            case "content_block_start" if event.content_block is not None:
                return self._start(event.index, event.content_block)
            case "content_block_stop" if event.index in self._calls:
                return self._calls.pop(event.index).stop()
            case "message_start" if event.message is not None:
                self._model = event.message.model
                self._count(event.message.usage)
            case "message_delta":
                self._count(event.usage)
                return self._finish(event.delta or _Delta())
        return []

    def _add(self, index: int, delta: _Delta) -> list[ChatChunk]:
        if delta.type == "text_delta" and delta.text:
            return [TextChunk(text=delta.text)]
        if delta.type == "input_json_delta" and index in self._calls and delta.partial_json:
            return [self._calls[index].add(delta.partial_json)]
        return []  # thinking, its signature, citations: not requested

    def _start(self, index: int, block: _Block) -> list[ChatChunk]:
        if block.type == "tool_use":
            call = self._calls[index] = _ToolCall(self._call_count, block)
            self._call_count += 1
            return [call.start()]
        return [TextChunk(text=block.text)] if block.text else []

    def _count(self, usage: _Usage | None) -> None:
        for name in _Usage.__struct_fields__:
            value = getattr(usage, name, None)
            if value is not None:
                setattr(self._usage, name, value)

    def _finish(self, delta: _Delta) -> list[ChatChunk]:
        if delta.stop_reason is None:
            return []
        chunks: list[ChatChunk] = []
        if delta.stop_details is not None and delta.stop_details.explanation:
            chunks.append(RefusalChunk(text=delta.stop_details.explanation))
        chunks.append(FinishChunk(reason=_FINISH_REASONS.get(delta.stop_reason, "stop")))
        counts = self._usage
        cached = (counts.cache_creation_input_tokens or 0) + (counts.cache_read_input_tokens or 0)
        prompt, completion = (counts.input_tokens or 0) + cached, counts.output_tokens or 0
        usage = Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
        return [*chunks, UsageChunk(usage=usage)]


def _stream_error(error: _Error) -> UpstreamError:
    return from_status(_STATUSES.get(error.type, 500), error.message or error.type)
