"""From the chunks of a stream to a whole response, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from handler_host.chat.by_choice import ByChoice
from handler_host.chat.types import (
    ChatChoice,
    ChatChunk,
    ChatResponse,
    ChoiceChunk,
    CitationChunk,
    FinishChunk,
    IgnoredChunk,
    LogprobsChunk,
    ModelChunk,
    ReasoningChunk,
    ReasoningPart,
    RefusalChunk,
    RefusalPart,
    ResponsePart,
    TextChunk,
    TextPart,
    ToolCallChunk,
    ToolCallPart,
    UsageChunk,
)

Item = TypeVar("Item")


def accumulate(chunks: Iterable[ChatChunk]) -> ChatResponse:
    """Return the response whose stream has these chunks."""
    response = ChatResponse(content=[], finish_reason="stop", usage=None)
    builders = ByChoice(
        lambda number: _ChoiceBuilder(ChatChoice(content=[], finish_reason="stop") if number else response)
    )
    for chunk in chunks:
        match chunk:
            case UsageChunk():
                response.usage = chunk.usage
            case ModelChunk():
                response.model = chunk.model
                response.service_tier = chunk.service_tier or response.service_tier
                response.system_fingerprint = chunk.system_fingerprint or response.system_fingerprint
            case IgnoredChunk():
                response.ignored = _extended(response.ignored, chunk.fields)
            case _:
                builders[chunk.choice].add(chunk)
    builders.pop(0).build()
    response.alternatives = [builders[number].build() for number in sorted(builders)] or None
    return response


def to_chunks(response: ChatResponse) -> Iterator[ChatChunk]:
    """Yield a response as a stream of whole parts."""
    if response.model is not None:
        yield ModelChunk(
            model=response.model,
            service_tier=response.service_tier,
            system_fingerprint=response.system_fingerprint,
        )
    if response.ignored:
        yield IgnoredChunk(fields=response.ignored)
    for number, choice in enumerate(response.choices):
        for chunk in _choice_chunks(choice):
            chunk.choice = number
            yield chunk
    if response.usage is not None:
        yield UsageChunk(usage=response.usage)


def _choice_chunks(choice: ChatChoice) -> Iterator[ChoiceChunk]:
    if choice.logprobs:
        yield LogprobsChunk(content=choice.logprobs)
    calls = 0
    for part in choice.content:
        match part:
            case TextPart():
                yield TextChunk(text=part.text)
            case ReasoningPart():
                yield ReasoningChunk(
                    text=part.text, signature=part.signature, encrypted=part.encrypted, format=part.format
                )
            case RefusalPart():
                yield RefusalChunk(text=part.text)
            case ToolCallPart():
                yield ToolCallChunk(
                    index=calls, id=part.id, name=part.name, arguments=part.arguments, signature=part.signature
                )
                calls += 1
    for citation in choice.citations or ():
        yield CitationChunk(citation=citation)
    yield FinishChunk(reason=choice.finish_reason, stop_sequence=choice.stop_sequence)


def _extended(items: list[Item] | None, more: Iterable[Item]) -> list[Item]:
    """Return the list, extended in place, or a new one: a copy for each chunk is quadratic."""
    if items is None:
        return list(more)
    items.extend(more)
    return items


class _ChoiceBuilder:
    """A response under construction.

    The strings of each part are joined once, at the end: appending one by one is quadratic, and the arguments of a
    tool call can come in tens of thousands of chunks.
    """

    def __init__(self, choice: ChatChoice) -> None:
        self._choice = choice
        self._parts: list[ResponsePart] = []
        self._strings: list[list[str]] = []
        self._calls: dict[int, int] = {}
        """Position of each tool call, by its index."""
        self._closed = False
        """The last part takes no more chunks."""

    def add(self, chunk: ChoiceChunk) -> None:
        """Add a chunk to the part that it continues, or start a new one."""
        match chunk:
            case FinishChunk():
                self._choice.finish_reason = chunk.reason
                self._choice.stop_sequence = chunk.stop_sequence
            case LogprobsChunk():
                self._choice.logprobs = _extended(self._choice.logprobs, chunk.content)
            case CitationChunk():
                self._choice.citations = _extended(self._choice.citations, [chunk.citation])
            case TextChunk():
                self._strings[self._position(TextPart)].append(chunk.text)
            case RefusalChunk():
                self._strings[self._position(RefusalPart)].append(chunk.text)
            case ReasoningChunk():
                self._add_reasoning(chunk)
            case ToolCallChunk():
                self._add_call(chunk)

    def build(self) -> ChatChoice:
        """Return the response, with its parts."""
        for part, strings in zip(self._parts, self._strings, strict=True):
            if isinstance(part, ToolCallPart):
                part.arguments = "".join(strings)
            else:
                part.text = "".join(strings)
        self._choice.content = self._parts
        return self._choice

    def _position(self, kind: type[TextPart | RefusalPart | ReasoningPart]) -> int:
        """Return the position of the part that the next chunk of this kind belongs to."""
        if self._closed or not self._parts or not isinstance(self._parts[-1], kind):
            self._begin(kind(text=""))
        return len(self._parts) - 1

    def _begin(self, part: ResponsePart) -> None:
        self._parts.append(part)
        self._strings.append([])
        self._closed = False

    def _add_reasoning(self, chunk: ReasoningChunk) -> None:
        position = self._position(ReasoningPart)
        self._strings[position].append(chunk.text)
        part = self._parts[position]
        assert isinstance(part, ReasoningPart)
        part.signature = chunk.signature or part.signature
        part.encrypted = chunk.encrypted or part.encrypted
        part.format = chunk.format or part.format
        self._closed = chunk.signature is not None or chunk.encrypted is not None

    def _add_call(self, chunk: ToolCallChunk) -> None:
        if chunk.index not in self._calls:
            self._begin(ToolCallPart(id="", name="", arguments=""))
            self._calls[chunk.index] = len(self._parts) - 1
        position = self._calls[chunk.index]
        part = self._parts[position]
        assert isinstance(part, ToolCallPart)
        part.id = chunk.id or part.id
        part.name = chunk.name or part.name
        part.signature = chunk.signature or part.signature
        self._strings[position].append(chunk.arguments)
