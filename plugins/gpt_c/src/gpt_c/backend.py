"""What the two SDKs have in common: one question in Google's terms, one answer in chunks."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handler_host.chat import Citation, TokenLogprob, Usage


@dataclass(frozen=True)
class Question:
    """A chat in Google's terms; all but ``model`` as both SDKs take it, in dictionaries with names in snake case."""

    model: str
    """With its prefix: ``models/gemini-2.5-flash``."""
    contents: list[dict[str, Any]]
    system: str | None
    functions: list[dict[str, Any]]
    """Function declarations; ``parameters`` is a JSON Schema."""
    tool_config: dict[str, Any] | None
    config: dict[str, Any]
    """Of a ``GenerationConfig``, without its schema."""
    schema: dict[str, Any] | None
    """The JSON Schema of the answer."""
    thinking: dict[str, Any] | None = None
    """Of a ``ThinkingConfig``."""
    ignored: tuple[str, ...] = ()
    """Fields of the chat that the model does not take."""

    @property
    def candidates(self) -> int:
        """How many candidates the question asks for."""
        return self.config.get("candidate_count") or 1


@dataclass(frozen=True)
class Call:
    """A function call of the model; Google sends it whole, and often without an ``id``."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None
    signature: str | None = None
    """Opaque data of the model, in base64."""


@dataclass(frozen=True)
class Source:
    """A source of the text; its place in the text is in bytes of UTF-8, as Google counts."""

    url: str | None = None
    title: str | None = None
    quote: str | None = None
    start: int = 0
    end: int | None = None
    segment: str | None = None
    """The text at that place, if Google sends it: the place may be one in a part of the text."""

    def place(self, text: bytes) -> tuple[int, int] | None:
        """Return the place in the whole text of a response, or None if it is not in the text."""
        start, end = self.start, self.end
        if self.segment:
            segment = self.segment.encode(errors="replace")
            start = start if text.startswith(segment, start) else text.find(segment)
            end = start + len(segment)
        return (start, end) if end is not None and 0 <= start < end <= len(text) else None


def citations_of(sources: Iterable[Source], text: str) -> list[Citation]:
    """Return the citations of a whole text, with their places in its characters."""
    encoded = text.encode(errors="replace")
    placed = [(source, source.place(encoded)) for source in sources]
    indices: dict[int, int] = {}
    length = previous = 0
    for offset in sorted({offset for _, place in placed for offset in place or ()}):
        length += len(encoded[previous:offset].decode(errors="ignore"))
        indices[offset], previous = length, offset
    return [
        Citation(
            url=source.url,
            title=source.title,
            quote=source.quote,
            start_index=indices[place[0]] if place else None,
            end_index=indices[place[1]] if place else None,
        )
        for source, place in placed
    ]


@dataclass(frozen=True)
class Chunk:
    """What one message of the provider's stream, or a whole response, has of one candidate."""

    candidate: int = 0
    """Its number, from 0 on."""
    text: str = ""
    thought: str = ""
    calls: tuple[Call, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """Log probabilities of the text's tokens."""
    sources: tuple[Source, ...] = ()
    finish: str | None = None
    """Google's word for the reason of the end, in capitals."""
    blocked: str | None = None
    """Google's word for why the prompt was refused."""
    usage: Usage | None = None
    model: str | None = None


@dataclass(frozen=True)
class Settings:
    """Address of the provider, and options of its requests.

    Seconds: ``timeout`` for each part of a stream, ``plain_timeout`` for a response that is not streamed.
    """

    key: str = field(repr=False)
    base_url: str
    api_version: str
    timeout: float
    plain_timeout: float
    headers: Mapping[str, str] = field(repr=False)

    def url(self, model: str, method: str) -> str:
        """Return the URL of a method; ``model`` has its prefix, as in :class:`Question`."""
        return f"{self.base_url}/{self.api_version}/{model}:{method}"


FIRST_WITH_SIGNATURES = (3, 0)
"""First version of the models that want signatures back."""
ANY_SIGNATURE = base64.b64encode(b"skip_thought_signature_validator").decode()
"""Stands for the signature of a thought that is not at hand.

From version 3 on Gemini wants the first function call of each step back with the
signature that it came with, for which a chat has no field; this value is what Google
names for histories that come from elsewhere (ai.google.dev/gemini-api/docs/thought-signatures).
"""


def version_of(model: str) -> tuple[int, int]:
    """Return the version in a model's name, ``models/gemini-2.5-flash``; 0.0 if it has none."""
    match = re.match(r"models/gemini-(\d+)(?:\.(\d+))?", model)
    return (int(match[1]), int(match[2] or 0)) if match is not None else (0, 0)


def wants_signatures(model: str) -> bool:
    """Return whether a model wants signatures on its earlier function calls."""
    return version_of(model) >= FIRST_WITH_SIGNATURES
