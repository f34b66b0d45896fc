"""The events of one stream for a client of Anthropic's messages. Pure."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from handler_host.chat import types as chat
from handler_host.http.sse import event
from handler_host.plugin.errors import HostError
from handler_host.protocols.anthropic import FORMAT
from handler_host.protocols.anthropic.errors import error_events
from handler_host.protocols.anthropic.responses import (
    Block,
    BlockDelta,
    BlockStart,
    BlockStop,
    CitationsDelta,
    Event,
    InputDelta,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    RedactedThinking,
    SignatureDelta,
    Stop,
    StopDetails,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolUse,
    signature_blocks,
    stop_reason_of,
    usage_of,
    web_citation,
)
from handler_host.protocols.opaque import seal


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
        self._service_tier: str | None = None
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
            case chat.CitationChunk():
                return _encoded(self._add_citation(chunk.citation))
            case chat.FinishChunk():
                self._finish, self._stop_sequence = chunk.reason, chunk.stop_sequence
            case chat.ModelChunk():
                self._model, self._service_tier = chunk.model, chunk.service_tier
            case chat.UsageChunk():
                self._usage = chunk.usage
            case chat.ReasoningChunk():
                return _encoded([*self._start(), *self._add_reasoning(chunk)])
        return []

    def last(self) -> list[bytes]:
        """Return the events to send after the last chunk."""
        refusal = "".join(self._refusal)
        stop = Stop(
            stop_reason=stop_reason_of(self._finish, refusal, self._stop_sequence),
            stop_sequence=self._stop_sequence,
            stop_details=StopDetails(explanation=refusal) if refusal else UNSET,
        )
        end: list[Event] = [MessageDelta(delta=stop, usage=usage_of(self._usage)), MessageStop()]
        return _encoded([*self._start(), *self._stop_block(), *end])

    def failed(self, error: HostError, request_id: str) -> list[bytes]:
        """Return the events to send for an error."""
        return error_events(error, request_id)

    def _start(self) -> list[Event]:
        if self._has_started:
            return []
        self._has_started = True
        empty = Message(id=self._id, model=self._model, content=[], usage=usage_of(self._usage, self._service_tier))
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

    def _add_citation(self, citation: chat.Citation) -> list[Event]:
        """Return the event of a source of the last text."""
        source = web_citation(citation)
        if source is None or self._text is None:
            return []
        return [BlockDelta(index=self._text, delta=CitationsDelta(citation=source))]

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
            for block in signature_blocks(chunk.signature):
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
