"""What clients of OpenAI's chat completions get, made of the types of ``handler_host.chat.types``. Pure."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from handler_host.chat import types as chat


class _Answer(msgspec.Struct, kw_only=True):
    """Base of what clients get: null is written, UNSET is left out."""


class Usage(_Answer, kw_only=True):
    """Tokens, all three counts of them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Function(_Answer, kw_only=True):
    """The call of a function, or a part of it."""

    name: str | UnsetType = UNSET
    arguments: str


class ToolCall(_Answer, kw_only=True):
    """A tool call; in a stream a part of one, with its ``index``."""

    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: Function


class Delta(_Answer, kw_only=True):
    """What a chunk adds to the message."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChunkChoice(_Answer, kw_only=True):
    """The one choice in a chunk."""

    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: str | None = None


class Chunk(_Answer, kw_only=True):
    """One event of a stream."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET


class AnswerMessage(_Answer, kw_only=True):
    """The message of a whole answer."""

    role: str = "assistant"
    content: str | None
    refusal: str | None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class AnswerChoice(_Answer, kw_only=True):
    """The one choice of a whole answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: str


class Completion(_Answer, kw_only=True):
    """A whole answer."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[AnswerChoice]
    usage: Usage | UnsetType = UNSET


class Model(_Answer, kw_only=True):
    """A handler, as a client of OpenAI sees it."""

    id: str
    object: str = "model"
    created: int
    owned_by: str


class ModelList(_Answer, kw_only=True):
    """All of them."""

    object: str = "list"
    data: list[Model]


def completion(response: chat.ChatResponse, *, number: str, created: int, model: str) -> Completion:
    """Return a whole answer. ``model`` is what was asked for, for a handler that does not say what answers."""
    calls = [
        ToolCall(
            id=call.id, type="function", function=Function(name=call.function.name, arguments=call.function.arguments)
        )
        for call in response.tool_calls or ()
    ]
    message = AnswerMessage(content=response.text, refusal=response.refusal, tool_calls=calls or UNSET)
    return Completion(
        id=number,
        created=created,
        model=response.model or model,
        choices=[AnswerChoice(message=message, finish_reason=response.finish_reason)],
        usage=_usage(response.usage) if response.usage is not None else UNSET,
    )


class ChunkEncoder:
    """Makes the chunks of one stream from the pieces of a handler."""

    def __init__(self, *, number: str, created: int, model: str, include_usage: bool) -> None:
        self._number = number
        self._created = created
        self._model = model
        self._include_usage = include_usage
        self._usage = chat.Usage()
        self._begun = False
        self._finished = False

    def chunks(self, piece: chat.ChatChunk) -> list[Chunk]:
        """Return what to send for one piece: mostly one chunk, and none for a piece of usage alone."""
        self._usage = piece.usage or self._usage
        self._model = piece.model or self._model
        made = [] if self._begun else [self._chunk(Delta(role="assistant", content=""))]
        self._begun = True
        delta = _delta(piece)
        if delta is not None:
            made.append(self._chunk(delta))
        if piece.finish_reason is not None and not self._finished:
            made.append(self._chunk(Delta(), piece.finish_reason))
            self._finished = True
        return made

    def last(self) -> list[Chunk]:
        """Return what to send when the pieces have ended."""
        made = [] if self._finished else self.chunks(chat.ChatChunk(finish_reason="stop"))
        if self._include_usage:
            chunk = self._chunk(Delta())
            chunk.choices = []
            chunk.usage = _usage(self._usage)
            made.append(chunk)
        return made

    def _chunk(self, delta: Delta, finish: str | None = None) -> Chunk:
        return Chunk(
            id=self._number,
            created=self._created,
            model=self._model,
            choices=[ChunkChoice(delta=delta, finish_reason=finish)],
            usage=None if self._include_usage else UNSET,
        )


def _delta(piece: chat.ChatChunk) -> Delta | None:
    if piece.text is None and piece.refusal is None and not piece.tool_calls:
        return None
    calls = [
        ToolCall(
            index=part.index,
            id=part.id if part.id is not None else UNSET,
            type="function" if part.id is not None else UNSET,
            function=Function(name=part.name if part.name is not None else UNSET, arguments=part.arguments),
        )
        for part in piece.tool_calls or ()
    ]
    return Delta(
        content=piece.text if piece.text is not None else UNSET,
        refusal=piece.refusal if piece.refusal is not None else UNSET,
        tool_calls=calls or UNSET,
    )


def _usage(usage: chat.Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens or usage.prompt_tokens + usage.completion_tokens,
    )
