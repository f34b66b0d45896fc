"""From the events of Anthropic's stream to pieces of a chat."""

from __future__ import annotations

from typing import Any

import msgspec

from handler_host.chat import ChatChunk, FinishReason, ToolCallDelta, Usage
from handler_host.plugin import UpstreamError, from_status

_FINISHES: dict[str, FinishReason] = {
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
"""The status of an error that comes within a stream; any other is the provider's own fault."""


class _Usage(msgspec.Struct):
    """What has been counted so far; a later event has the higher count, or none."""

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
    """Any event of the stream; what this handler does not know is passed over, as Anthropic asks for."""

    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_decoder = msgspec.json.Decoder(_Event)


class _Call:
    """A tool call that is being streamed."""

    def __init__(self, index: int, block: _Block) -> None:
        self.index = index
        self.block = block
        self.has_arguments = False

    def begin(self) -> ToolCallDelta:
        return ToolCallDelta(index=self.index, id=self.block.id, name=self.block.name)

    def go_on(self, fragment: str) -> ToolCallDelta:
        self.has_arguments = True
        return ToolCallDelta(index=self.index, arguments=fragment)

    def end(self) -> ToolCallDelta | None:
        """Return the arguments of a call that had none to stream: often ``{}``."""
        if self.has_arguments:
            return None
        return ToolCallDelta(index=self.index, arguments=msgspec.json.encode(self.block.input or {}).decode())


class Events:
    """One stream of events."""

    def __init__(self) -> None:
        self._model: str | None = None
        self._counted = _Usage()
        self._calls: dict[int, _Call] = {}
        self._begun = 0  # tool calls

    def chunks(self, data: str) -> list[ChatChunk]:
        """Return the pieces in the data of one event: mostly one or none.

        Raises ``UpstreamError`` for an event that tells of an error, and for one that is none.
        """
        if not data:
            return []
        try:
            event = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise UpstreamError("the provider sent an event that is not one of Anthropic's") from error
        if event.type == "error":
            raise _told(event.error or _Error())
        chunk = self._piece(event)
        if chunk is None:
            return []
        chunk.model, self._model = self._model, None
        return [chunk]

    def _piece(self, event: _Event) -> ChatChunk | None:
        if event.type == "content_block_delta":
            return self._delta(event.index, event.delta or _Delta())
        if event.type == "content_block_start":
            return self._begin(event.index, event.content_block)
        if event.type == "content_block_stop":
            call = self._calls.pop(event.index, None)
            last = call.end() if call is not None else None
            return ChatChunk(tool_calls=[last]) if last is not None else None
        if event.type == "message_start" and event.message is not None:
            self._model = event.message.model
            self._count(event.message.usage)
        elif event.type == "message_delta":
            self._count(event.usage)
            return self._end(event.delta or _Delta())
        return None

    def _delta(self, index: int, delta: _Delta) -> ChatChunk | None:
        if delta.type == "text_delta":
            return ChatChunk(text=delta.text) if delta.text else None
        if delta.type == "input_json_delta" and index in self._calls and delta.partial_json:
            return ChatChunk(tool_calls=[self._calls[index].go_on(delta.partial_json)])
        return None  # thinking, its signature, citations: nothing that a chat's answer has a place for

    def _begin(self, index: int, block: _Block | None) -> ChatChunk | None:
        if block is None:
            return None
        if block.type == "tool_use":
            call = self._calls[index] = _Call(self._begun, block)
            self._begun += 1
            return ChatChunk(tool_calls=[call.begin()])
        return ChatChunk(text=block.text) if block.text else None

    def _count(self, usage: _Usage | None) -> None:
        for name in _Usage.__struct_fields__:
            value = getattr(usage, name, None)
            if value is not None:
                setattr(self._counted, name, value)

    def _end(self, delta: _Delta) -> ChatChunk | None:
        if delta.stop_reason is None:
            return None
        counted = self._counted
        cached = (counted.cache_creation_input_tokens or 0) + (counted.cache_read_input_tokens or 0)
        prompt, completion = (counted.input_tokens or 0) + cached, counted.output_tokens or 0
        return ChatChunk(
            finish_reason=_FINISHES.get(delta.stop_reason, "stop"),
            refusal=delta.stop_details.explanation if delta.stop_details is not None else None,
            usage=Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion),
        )


def _told(error: _Error) -> UpstreamError:
    return from_status(_STATUSES.get(error.type, 500), error.message or error.type)
