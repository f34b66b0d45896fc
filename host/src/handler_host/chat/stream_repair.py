"""Repairs of a stream that every handler needs, whatever its provider sends. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator

from msgspec.structs import replace

from handler_host._internal.text import SURROGATE, repair_text
from handler_host.chat.by_choice import ByChoice
from handler_host.chat.types import (
    ChatChunk,
    ChoiceChunk,
    FinishChunk,
    IgnoredChunk,
    ModelChunk,
    ReasoningChunk,
    RefusalChunk,
    TextChunk,
    ToolCallChunk,
    UsageChunk,
)

MAX_CHUNK_CHARS = 128 * 1024
"""Longest text of a chunk: with each character escaped in JSON it fits into a frame (``workers.max_frame``)."""

_Text = TextChunk | RefusalChunk | ReasoningChunk
_Key = type[_Text] | int
"""A text that comes in parts: of a kind of chunk, or the arguments of the tool call with this index."""


def new_call_id() -> str:
    """Return an ID for a tool call that has none."""
    return f"call_{uuid.uuid4().hex[:24]}"


class StreamRepair:
    """Repairer of one stream, with the state of each of its choices; ``known_ids`` are those of calls before it."""

    def __init__(self, known_ids: Collection[str] = ()) -> None:
        self._choices = ByChoice(lambda number: _ChoiceRepair(number, known_ids))

    @property
    def unfinished(self) -> list[int]:
        """The choices without a finish reason so far."""
        return [number for number, choice in self._choices.items() if not choice.is_finished]

    def chunks(self, chunk: ChatChunk) -> Iterator[ChatChunk]:
        """Return the chunks to send for one chunk: mostly the same one."""
        if isinstance(chunk, ModelChunk | UsageChunk | IgnoredChunk):
            return iter((chunk,))
        return self._choices[chunk.choice].chunks(chunk)

    def last(self) -> Iterator[ChatChunk]:
        """Yield U+FFFD for each half that stayed alone."""
        for choice in self._choices.values():
            yield from choice.last()


class _ChoiceRepair:
    """Repairer of one response: joins surrogate pairs that two chunks share, and gives each tool call its own ID.

    A chunk that is too long for a frame is split.

    A half that stays alone becomes U+FFFD. A call without an ID, or with the ID of another call, gets a new one:
    clients send the result of a call back with its ID.
    """

    def __init__(self, number: int, known_ids: Collection[str]) -> None:
        self._number = number
        self._known_ids = known_ids
        self.is_finished = False
        """Whether a finish reason has come."""
        self._halves: dict[_Key, str] = {}
        """First halves of pairs at the end of a text, until the second half comes."""
        self._ids: dict[int, str] = {}
        """ID of each tool call, by its index."""

    def chunks(self, chunk: ChoiceChunk) -> Iterator[ChoiceChunk]:
        """Yield the chunks to send for one chunk: mostly the same one."""
        match chunk:
            case TextChunk() | RefusalChunk() | ReasoningChunk():
                if self._halves:
                    yield from self._flush(keep=type(chunk))
                text = self._repair(type(chunk), chunk.text)
                if len(text) > MAX_CHUNK_CHARS and not isinstance(chunk, ReasoningChunk):
                    for part in _parts(text):
                        yield replace(chunk, text=part)
                elif text is chunk.text:
                    yield chunk
                elif text or isinstance(chunk, ReasoningChunk):
                    yield replace(chunk, text=text)
            case ToolCallChunk():
                if self._halves:
                    yield from self._flush(keep=int)
                chunk = self._with_id(chunk)
                arguments = self._repair(chunk.index, chunk.arguments)
                if len(arguments) > MAX_CHUNK_CHARS:
                    first, *rest = _parts(arguments)
                    yield replace(chunk, arguments=first)
                    for part in rest:
                        yield ToolCallChunk(index=chunk.index, arguments=part, choice=chunk.choice)
                else:
                    yield chunk if arguments is chunk.arguments else replace(chunk, arguments=arguments)
            case FinishChunk():
                self.is_finished = True
                yield from self.last()
                yield chunk
            case _:
                yield chunk

    def last(self) -> Iterator[ChoiceChunk]:
        """Yield U+FFFD for each half that stayed alone."""
        yield from self._flush()

    def _flush(self, keep: type | None = None) -> Iterator[ChoiceChunk]:
        for key in list(self._halves):
            if isinstance(key, int):
                if keep is not int:
                    del self._halves[key]
                    yield ToolCallChunk(index=key, arguments="\ufffd", choice=self._number)
            elif key is not keep:
                del self._halves[key]
                yield key(text="\ufffd", choice=self._number)

    def _repair(self, key: _Key, text: str) -> str:
        """Return the text, or a new one with whole pairs only."""
        if self._halves and text:
            text = self._halves.pop(key, "") + text
        if text.isascii() or SURROGATE.search(text) is None:
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            self._halves[key] = text[-1]
            text = text[:-1]
        return repair_text(text)

    def _with_id(self, chunk: ToolCallChunk) -> ToolCallChunk:
        known = self._ids.get(chunk.index)
        if known is not None:
            return chunk if chunk.id is None or chunk.id == known else replace(chunk, id=known)
        call_id = chunk.id
        if not call_id or call_id in self._known_ids or call_id in self._ids.values():
            call_id = new_call_id()
        self._ids[chunk.index] = call_id
        return chunk if call_id == chunk.id else replace(chunk, id=call_id)


def _parts(text: str) -> list[str]:
    return [text[start : start + MAX_CHUNK_CHARS] for start in range(0, len(text), MAX_CHUNK_CHARS)]
