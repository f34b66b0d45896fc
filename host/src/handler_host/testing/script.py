"""Steps of the scripted provider, and the requests that it records, in terms common to all protocols."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from handler_host.chat.types import Citation, FinishReason

ProtocolName = Literal["openai", "anthropic", "gemini"]
"""The protocols that the scripted provider speaks."""
Fault = Literal["cut", "truncated", "stalled", "malformed", "error"]
"""A way in which a reply fails after it has started:

- ``cut``: the connection is closed in the middle of the response;
- ``truncated``: the response ends in good form, but without a finish reason;
- ``stalled``: nothing more comes, and the connection stays open;
- ``malformed``: half a JSON document comes, and then the end;
- ``error``: the provider's own error comes, as an event of the stream (status 500 without a stream).
"""


@dataclass(frozen=True)
class ScriptedToolCall:
    """A tool call of the model; a stream divides its arguments into ``chunk_count`` chunks."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = "call_1"
    chunk_count: int = 2

    def fragments(self) -> list[str]:
        """Return the JSON of the arguments in the parts that a stream sends."""
        whole = json.dumps(self.arguments)
        size = max(1, -(-len(whole) // self.chunk_count))
        return [whole[start : start + size] for start in range(0, len(whole), size)]


@dataclass(frozen=True)
class Reply:
    """A response: the chunks of its text, as a stream sends them, and its end.

    A client that takes no stream gets the whole text.
    """

    chunks: tuple[str, ...] = ("Hello", " you")
    finish: FinishReason = "stop"
    prompt_tokens: int = 5
    completion_tokens: int = 2
    calls: tuple[ScriptedToolCall, ...] = ()
    refusal: str | None = None
    """OpenAI's refusal in words; the other protocols have a finish reason only."""
    stop_sequence: str | None = None
    """In Anthropic's field, and in vLLM's of OpenAI's protocol; Gemini has none."""
    citations: tuple[Citation, ...] = ()
    """Sources with URL and title; each stands for the whole text."""
    choices: int = 1
    """How many times the response is sent, for a request with an ``n``; Anthropic has none."""
    model: str = "served-model"
    pause: float = 0.0
    """Seconds before each chunk."""
    fault: Fault | None = None
    chunks_before_fault: int = 1

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.chunks)

    def with_fault(self, fault: Fault, after: int = 1) -> Self:
        """Return the same reply, failing after so many chunks."""
        return replace(self, fault=fault, chunks_before_fault=after)


@dataclass(frozen=True)
class Status:
    """A refusal: a status, and an error in the form of the protocol, or the page of a proxy (``html``)."""

    status: int
    message: str = ""
    retry_after: float | None = None
    """Seconds; sent as ``Retry-After``, and as Google's ``RetryInfo`` in Gemini's protocol."""
    code: str | None = None
    """OpenAI's ``error.code``; the other protocols derive the error's type from ``status``."""
    param: str | None = None
    html: str | None = None
    """This page instead of JSON; with status 200 it is a response in the wrong format."""

    @property
    def text(self) -> str:
        """The message, or one that names the status."""
        return self.message or f"this is a scripted {self.status}"


@dataclass(frozen=True)
class Silence:
    """Nothing at all, until the client closes the connection."""


@dataclass(frozen=True)
class Raw:
    """These bytes, one after the other: for responses that no :class:`Reply` describes."""

    parts: tuple[bytes, ...]
    status: int = 200
    content_type: str = "text/event-stream"
    stays_open: bool = False
    """The response does not end after the last part."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers."""


@dataclass(frozen=True)
class Turn:
    """One message of a request."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    images: int = 0
    calls: tuple[ScriptedToolCall, ...] = ()
    result_of: str | None = None
    """The tool call whose result this is: its ID, or the function's name in Gemini's protocol."""


@dataclass(frozen=True)
class ParsedRequest:
    """The content of a request, the same for all protocols."""

    model: str
    streamed: bool
    turns: tuple[Turn, ...]
    include_usage: bool = True
    """OpenAI sends the usage of a stream only on demand; the others always send it."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    """Names of the offered functions."""
    tool_choice: str | None = None
    """``auto``, ``none``, ``required``, or the name of a function."""

    @property
    def system(self) -> str:
        """The text of the system messages."""
        return "\n".join(turn.text for turn in self.turns if turn.role == "system")


@dataclass(eq=False)
class RecordedRequest:
    """A request as it arrived."""

    protocol: ProtocolName
    path: str
    headers: Mapping[str, str]
    """Names are case-insensitive."""
    key: str | None
    """The key in the protocol's own header."""
    body: dict[str, Any]
    parsed: ParsedRequest
    connection: int = 0
    """Port of the client; requests on one connection have the same."""
    disconnected: Future[None] = field(default_factory=Future)
    """Done when the client has closed the connection before it had the whole response.

    ``disconnected.result(30)`` waits for it in a test, ``asyncio.wrap_future(disconnected)`` in an asynchronous one.
    """
    content: bytes = b""
    """The bytes of the body."""


FixedStep = Reply | Status | Silence | Raw
Step = FixedStep | Callable[[RecordedRequest], FixedStep]
"""The response to one request; a function chooses it when it sees the request."""
