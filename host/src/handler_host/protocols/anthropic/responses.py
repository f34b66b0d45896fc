"""What clients of Anthropic's messages get, made of the types of ``handler_host.chat.types``. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from handler_host.chat import types as chat
from handler_host.http.sse import event
from handler_host.plugin.errors import UpstreamError

STOP_REASONS: dict[chat.FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class _Answer(msgspec.Struct, kw_only=True):
    """Base of what clients get: null is written, UNSET is left out."""


class Usage(_Answer, kw_only=True):
    """Tokens."""

    input_tokens: int
    output_tokens: int


class Text(_Answer, tag_field="type", tag="text", kw_only=True):
    """A block of text."""

    text: str
    citations: None = None


class ToolUse(_Answer, tag_field="type", tag="tool_use", kw_only=True):
    """A tool call."""

    id: str
    name: str
    input: dict[str, Any]


class StopDetails(_Answer, tag_field="type", tag="refusal", kw_only=True):
    """What a model said when it refused."""

    category: None = None
    explanation: str


class Message(_Answer, tag_field="type", tag="message", kw_only=True):
    """A whole answer; in a stream what is known of it at the beginning."""

    id: str
    role: str = "assistant"
    model: str
    content: list[Text | ToolUse]
    stop_reason: str | None = None
    stop_sequence: None = None
    stop_details: StopDetails | None = None
    usage: Usage


class MessageStart(_Answer, tag_field="type", tag="message_start", kw_only=True):
    """The first event of a stream."""

    message: Message


class Ping(_Answer, tag_field="type", tag="ping", kw_only=True):
    """An event that says nothing."""


class BlockStart(_Answer, tag_field="type", tag="content_block_start", kw_only=True):
    """A block begins."""

    index: int
    content_block: Text | ToolUse


class TextDelta(_Answer, tag_field="type", tag="text_delta", kw_only=True):
    """More of a text."""

    text: str


class InputDelta(_Answer, tag_field="type", tag="input_json_delta", kw_only=True):
    """More of a tool call's arguments, as JSON."""

    partial_json: str


class BlockDelta(_Answer, tag_field="type", tag="content_block_delta", kw_only=True):
    """A block goes on."""

    index: int
    delta: TextDelta | InputDelta


class BlockStop(_Answer, tag_field="type", tag="content_block_stop", kw_only=True):
    """A block ends."""

    index: int


class Stop(_Answer, kw_only=True):
    """How a stream ends."""

    stop_reason: str
    stop_sequence: None = None
    stop_details: StopDetails | UnsetType = UNSET


class MessageDelta(_Answer, tag_field="type", tag="message_delta", kw_only=True):
    """The last event but one."""

    delta: Stop
    usage: Usage


class MessageStop(_Answer, tag_field="type", tag="message_stop", kw_only=True):
    """The last event."""


class TokenCount(_Answer, kw_only=True):
    """The tokens of a request."""

    input_tokens: int


class Model(_Answer, tag_field="type", tag="model", kw_only=True):
    """A handler, as a client of Anthropic sees it."""

    id: str
    display_name: str
    created_at: str
    lifecycle: str = "active"


class ModelPage(_Answer, kw_only=True):
    """All of them, on one page."""

    data: list[Model]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


Event = MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop


def model(name: str, title: str, created: int) -> Model:
    """Return a model; ``created`` is in seconds since 1970."""
    return Model(id=name, display_name=title, created_at=datetime.fromtimestamp(created, UTC).isoformat())


def model_page(models: list[Model]) -> ModelPage:
    """Return all models."""
    return ModelPage(
        data=models,
        first_id=models[0].id if models else None,
        last_id=models[-1].id if models else None,
    )


def message(response: chat.ChatResponse, *, number: str, model: str) -> Message:
    """Return a whole answer. ``model`` is what was asked for, for a handler that does not say what answers."""
    content: list[Text | ToolUse] = [Text(text=response.text)] if response.text else []
    content += [_tool_use(call) for call in response.tool_calls or ()]
    return Message(
        id=number,
        model=response.model or model,
        content=content,
        stop_reason=_stop_reason(response.finish_reason, response.refusal),
        stop_details=StopDetails(explanation=response.refusal) if response.refusal else None,
        usage=_usage(response.usage or chat.Usage()),
    )


def _tool_use(call: chat.ToolCall) -> ToolUse:
    function = call.function
    try:
        arguments = msgspec.json.decode(function.arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError):
        raise UpstreamError(f"the model called {function.name!r} with arguments that are no JSON object") from None
    return ToolUse(id=call.id, name=function.name, input=arguments)


def _stop_reason(finish: chat.FinishReason, refusal: object) -> str:
    """Return Anthropic's word: a model that refuses in words may have finished as usual."""
    return "refusal" if refusal else STOP_REASONS[finish]


def _usage(usage: chat.Usage) -> Usage:
    return Usage(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens)


class EventEncoder:
    """Makes the events of one stream from the pieces of a handler.

    Blocks come one after the other, as Anthropic sends them: a text, then a call, then
    another. What a handler says later of a call that another has followed goes
    to the block of that call, which clients find by its index.
    """

    def __init__(self, *, number: str, model: str) -> None:
        self._number = number
        self._model = model
        self._begun = False
        self._blocks = 0
        self._open: int | None = None
        self._text: int | None = None
        self._calls: dict[int, int] = {}
        self._usage = chat.Usage()
        self._finish: chat.FinishReason = "stop"
        self._refusal: list[str] = []

    def events(self, chunk: chat.ChatChunk) -> list[bytes]:
        """Return the events of one piece; of a piece of usage alone there may be none."""
        self._usage = chunk.usage or self._usage
        self._model = chunk.model or self._model
        self._finish = chunk.finish_reason or self._finish
        if chunk.refusal is not None:
            self._refusal.append(chunk.refusal)
        made = self._begin()
        if chunk.text:
            if self._text is None or self._open != self._text:
                made += self._start(Text(text=""))
                self._text = self._open
            made.append(BlockDelta(index=self._blocks - 1, delta=TextDelta(text=chunk.text)))
        for part in chunk.tool_calls or ():
            made += self._call(part)
        return _encoded(made)

    def last(self) -> list[bytes]:
        """Return what to send when the pieces have ended."""
        refusal = "".join(self._refusal)
        stop = Stop(
            stop_reason=_stop_reason(self._finish, refusal),
            stop_details=StopDetails(explanation=refusal) if refusal else UNSET,
        )
        ending: list[Event] = [MessageDelta(delta=stop, usage=_usage(self._usage)), MessageStop()]
        return _encoded([*self._begin(), *self._stop(), *ending])

    def _begin(self) -> list[Event]:
        if self._begun:
            return []
        self._begun = True
        empty = Message(id=self._number, model=self._model, content=[], usage=_usage(self._usage))
        return [MessageStart(message=empty), Ping()]

    def _call(self, part: chat.ToolCallDelta) -> list[Event]:
        made: list[Event] = []
        if part.index not in self._calls:
            made += self._start(ToolUse(id=part.id or "", name=part.name or "", input={}))
            self._calls[part.index] = self._blocks - 1
        if part.arguments:
            delta = InputDelta(partial_json=part.arguments)
            made.append(BlockDelta(index=self._calls[part.index], delta=delta))
        return made

    def _start(self, block: Text | ToolUse) -> list[Event]:
        made: list[Event] = [*self._stop(), BlockStart(index=self._blocks, content_block=block)]
        self._open = self._blocks
        self._blocks += 1
        return made

    def _stop(self) -> list[Event]:
        if self._open is None:
            return []
        stopped, self._open = self._open, None
        return [BlockStop(index=stopped)]


def _encoded(events: list[Event]) -> list[bytes]:
    return [event(msgspec.json.encode(made), str(made.__struct_config__.tag)) for made in events]
