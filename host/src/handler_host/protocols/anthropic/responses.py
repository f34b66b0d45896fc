"""Responses for clients of Anthropic's messages, made from the types of ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from handler_host.chat import types as chat
from handler_host.config.model_info import ModelInfo
from handler_host.http.sse import event
from handler_host.plugin.errors import HostError, UpstreamError
from handler_host.protocols.anthropic import FORMAT
from handler_host.protocols.anthropic.errors import error_events
from handler_host.protocols.opaque import CALL_FORMAT, seal

STOP_REASONS: dict[chat.FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class _Response(msgspec.Struct, kw_only=True):
    """Base of responses: JSON has null for None, and leaves UNSET out."""


class OutputDetails(_Response, kw_only=True):
    """The part of the output tokens that is reasoning."""

    thinking_tokens: int


class Usage(_Response, kw_only=True):
    """Token counts; the input tokens are those that were neither read from the cache nor written to it."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | UnsetType = UNSET
    cache_read_input_tokens: int | UnsetType = UNSET
    output_tokens_details: OutputDetails | UnsetType = UNSET


class Text(_Response, tag_field="type", tag="text", kw_only=True):
    """A block of text."""

    text: str


class Thinking(_Response, tag_field="type", tag="thinking", kw_only=True):
    """A block of reasoning."""

    thinking: str
    signature: str


class RedactedThinking(_Response, tag_field="type", tag="redacted_thinking", kw_only=True):
    """A block of encrypted reasoning."""

    data: str


class ToolUse(_Response, tag_field="type", tag="tool_use", kw_only=True):
    """A tool call."""

    id: str
    name: str
    input: dict[str, Any]


Block = Text | Thinking | RedactedThinking | ToolUse


class StopDetails(_Response, tag_field="type", tag="refusal", kw_only=True):
    """The words in which a model refused."""

    category: None = None
    explanation: str


class Message(_Response, tag_field="type", tag="message", kw_only=True):
    """A whole response, or its head at the start of a stream."""

    id: str
    role: str = "assistant"
    model: str
    content: list[Block]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None
    usage: Usage


class MessageStart(_Response, tag_field="type", tag="message_start", kw_only=True):
    """The first event of a stream."""

    message: Message


class Ping(_Response, tag_field="type", tag="ping", kw_only=True):
    """An event without content."""


class BlockStart(_Response, tag_field="type", tag="content_block_start", kw_only=True):
    """The start of a block."""

    index: int
    content_block: Block


class TextDelta(_Response, tag_field="type", tag="text_delta", kw_only=True):
    """The next part of a text."""

    text: str


class ThinkingDelta(_Response, tag_field="type", tag="thinking_delta", kw_only=True):
    """The next part of a reasoning."""

    thinking: str


class SignatureDelta(_Response, tag_field="type", tag="signature_delta", kw_only=True):
    """The signature of a reasoning."""

    signature: str


class InputDelta(_Response, tag_field="type", tag="input_json_delta", kw_only=True):
    """The next part of a tool call's arguments, as JSON."""

    partial_json: str


class BlockDelta(_Response, tag_field="type", tag="content_block_delta", kw_only=True):
    """The next part of a block."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(_Response, tag_field="type", tag="content_block_stop", kw_only=True):
    """The end of a block."""

    index: int


class Stop(_Response, kw_only=True):
    """The reason why the model stopped."""

    stop_reason: str
    stop_sequence: str | None = None
    stop_details: StopDetails | UnsetType = UNSET


class MessageDelta(_Response, tag_field="type", tag="message_delta", kw_only=True):
    """The last event but one."""

    delta: Stop
    usage: Usage


class MessageStop(_Response, tag_field="type", tag="message_stop", kw_only=True):
    """The last event."""


class TokenCount(_Response, kw_only=True):
    """The token count of a request."""

    input_tokens: int


class Model(_Response, tag_field="type", tag="model", kw_only=True):
    """A handler, as a client of Anthropic sees it."""

    id: str
    display_name: str
    created_at: str
    lifecycle: str = "active"
    max_input_tokens: int | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET
    """Longest response."""


class ModelPage(_Response, kw_only=True):
    """All models, on one page."""

    data: list[Model]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


Event = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


def model(name: str, title: str, created: int, info: ModelInfo | None) -> Model:
    """Return a model; ``created`` is in seconds since 1970."""
    info = info or ModelInfo()
    return Model(
        id=name,
        display_name=title,
        created_at=datetime.fromtimestamp(created, UTC).isoformat(),
        max_input_tokens=UNSET if info.context_length is None else info.context_length,
        max_tokens=UNSET if info.max_output_tokens is None else info.max_output_tokens,
    )


def model_page(models: list[Model]) -> ModelPage:
    """Return all models."""
    return ModelPage(
        data=models,
        first_id=models[0].id if models else None,
        last_id=models[-1].id if models else None,
    )


def message(response: chat.ChatResponse, *, message_id: str, model: str) -> Message:
    """Return a whole response; ``model`` is the requested one, for a handler that does not name its model."""
    content: list[Block] = []
    for part in response.content:
        match part:
            case chat.TextPart() if part.text:
                content.append(Text(text=part.text))
            case chat.ToolCallPart():
                content += [*_signature(part.signature), _tool_use(part)]
            case chat.ReasoningPart() if part.encrypted is not None and not part.text:
                content.append(RedactedThinking(data=seal(part, FORMAT)))
            case chat.ReasoningPart():
                content.append(Thinking(thinking=part.text, signature=seal(part, FORMAT)))
            case _:
                pass  # a refusal goes into the stop details
    refusal = response.refusal
    return Message(
        id=message_id,
        model=response.model or model,
        content=content,
        stop_reason=_stop_reason(response.finish_reason, refusal, response.stop_sequence),
        stop_sequence=response.stop_sequence,
        stop_details=StopDetails(explanation=refusal) if refusal else None,
        usage=_usage(response.usage or chat.Usage()),
    )


def _tool_use(call: chat.ToolCallPart) -> ToolUse:
    try:
        arguments = msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError):
        raise UpstreamError(f"the model called {call.name!r} with arguments that are not a JSON object") from None
    return ToolUse(id=call.id, name=call.name, input=arguments)


def _signature(signature: str | None) -> list[Block]:
    """Return the block for the signature of the next call: clients send it back, as they must for reasoning."""
    if signature is None:
        return []
    return [RedactedThinking(data=seal(chat.ReasoningPart(encrypted=signature, format=CALL_FORMAT), FORMAT))]


def _stop_reason(finish: chat.FinishReason, refusal: str | None, stop_sequence: str | None) -> str:
    """Return Anthropic's stop reason: a model that refuses in words may have finished as usual."""
    if refusal:
        return "refusal"
    return "stop_sequence" if finish == "stop" and stop_sequence is not None else STOP_REASONS[finish]


def _usage(usage: chat.Usage) -> Usage:
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    shape = Usage(input_tokens=max(0, usage.prompt_tokens - cached - written), output_tokens=usage.completion_tokens)
    if cached or written:
        shape.cache_read_input_tokens, shape.cache_creation_input_tokens = cached, written
    if usage.reasoning_tokens:
        shape.output_tokens_details = OutputDetails(thinking_tokens=usage.reasoning_tokens)
    return shape


class EventEncoder:
    """Makes the events of one stream from the chunks of a handler.

    One block follows another, as Anthropic sends them: a text, then a call, then another. An argument that comes after
    the next block has started goes to the block of its own call, which clients find by its index.
    """

    def __init__(self, *, message_id: str, model: str) -> None:
        self._id = message_id
        self._model = model
        self._has_started = False
        self._blocks = 0
        self._open: int | None = None
        """Index of the open block."""
        self._text: int | None = None
        """Index of the last text block."""
        self._calls: dict[int, int] = {}
        """Index of each tool call's block, by the index of the call."""
        self._usage = chat.Usage()
        self._finish: chat.FinishReason = "stop"
        self._stop_sequence: str | None = None
        self._reasoning: chat.ReasoningChunk | None = None
        """Last chunk of the open block of reasoning."""
        self._refusal: list[str] = []

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the events for one chunk; some chunks have none."""
        match chunk:
            case chat.TextChunk():
                return _encoded([*self._start(), *self._add_text(chunk.text)])
            case chat.ToolCallChunk():
                return _encoded([*self._start(), *self._add_call(chunk)])
            case chat.RefusalChunk():
                self._refusal.append(chunk.text)
            case chat.FinishChunk():
                self._finish, self._stop_sequence = chunk.reason, chunk.stop_sequence
            case chat.ModelChunk():
                self._model = chunk.model
            case chat.UsageChunk():
                self._usage = chunk.usage
            case chat.ReasoningChunk():
                return _encoded([*self._start(), *self._add_reasoning(chunk)])
        return []

    def last(self) -> list[bytes]:
        """Return the events to send after the last chunk."""
        refusal = "".join(self._refusal)
        stop = Stop(
            stop_reason=_stop_reason(self._finish, refusal, self._stop_sequence),
            stop_sequence=self._stop_sequence,
            stop_details=StopDetails(explanation=refusal) if refusal else UNSET,
        )
        end: list[Event] = [MessageDelta(delta=stop, usage=_usage(self._usage)), MessageStop()]
        return _encoded([*self._start(), *self._stop_block(), *end])

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the events to send for an error."""
        return error_events(error, request_id)

    def _start(self) -> list[Event]:
        if self._has_started:
            return []
        self._has_started = True
        empty = Message(id=self._id, model=self._model, content=[], usage=_usage(self._usage))
        return [MessageStart(message=empty), Ping()]

    def _add_text(self, text: str) -> list[Event]:
        if not text:
            return []
        events: list[Event] = []
        if self._text is None or self._open != self._text:
            events += self._start_block(Text(text=""))
            self._text = self._open
        events.append(BlockDelta(index=self._blocks - 1, delta=TextDelta(text=text)))
        return events

    def _add_reasoning(self, chunk: chat.ReasoningChunk) -> list[Event]:
        """Return the events for reasoning; opaque data end its block, and encrypted reasoning is a block of its own."""
        if chunk.encrypted is not None and not chunk.text and self._reasoning is None:
            return [*self._start_block(RedactedThinking(data=seal(chunk, FORMAT))), *self._stop_block()]
        events: list[Event] = []
        if self._reasoning is None:
            events += self._start_block(Thinking(thinking="", signature=""))
        self._reasoning = chunk
        if chunk.text:
            events.append(BlockDelta(index=self._blocks - 1, delta=ThinkingDelta(thinking=chunk.text)))
        if chunk.signature is not None or chunk.encrypted is not None:
            events += self._stop_block()
        return events

    def _add_call(self, chunk: chat.ToolCallChunk) -> list[Event]:
        events: list[Event] = []
        if chunk.index not in self._calls:
            for block in _signature(chunk.signature):
                events += self._start_block(block)
            events += self._start_block(ToolUse(id=chunk.id or "", name=chunk.name or "", input={}))
            self._calls[chunk.index] = self._blocks - 1
        if chunk.arguments:
            delta = InputDelta(partial_json=chunk.arguments)
            events.append(BlockDelta(index=self._calls[chunk.index], delta=delta))
        return events

    def _start_block(self, block: Block) -> list[Event]:
        events: list[Event] = [*self._stop_block(), BlockStart(index=self._blocks, content_block=block)]
        self._open = self._blocks
        self._blocks += 1
        return events

    def _stop_block(self) -> list[Event]:
        if self._open is None:
            return []
        stopped, self._open = self._open, None
        reasoning, self._reasoning = self._reasoning, None
        signature = seal(reasoning, FORMAT) if reasoning is not None else ""
        if signature:
            return [BlockDelta(index=stopped, delta=SignatureDelta(signature=signature)), BlockStop(index=stopped)]
        return [BlockStop(index=stopped)]


def _encoded(events: list[Event]) -> list[bytes]:
    return [event(msgspec.json.encode(data), str(data.__struct_config__.tag)) for data in events]
