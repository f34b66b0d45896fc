"""What a test tells the upstream to do, and what the upstream tells of what it was asked: in words of no protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from handler_host.chat.types import FinishReason

ProtocolName = Literal["openai", "anthropic", "gemini"]
"""The protocols that the upstream speaks."""
Break = Literal["cut", "truncated", "stalled", "malformed", "error"]
"""How an answer goes wrong on its way:

- ``cut``: the connection is closed in the middle of the answer;
- ``truncated``: it ends in good form, but without a finish reason;
- ``stalled``: nothing more comes, and the connection stays;
- ``malformed``: half a JSON document comes, and then the end;
- ``error``: the provider's own error comes, as an event of the stream (status 500 where there is no stream).
"""


@dataclass(frozen=True)
class Called:
    """A tool call of the model. ``parts`` is into how many pieces a stream cuts the arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = "call_1"
    parts: int = 2

    def fragments(self) -> list[str]:
        """Return the JSON of the arguments as a stream sends it, in pieces."""
        whole = json.dumps(self.arguments)
        size = max(1, -(-len(whole) // self.parts))
        return [whole[start : start + size] for start in range(0, len(whole), size)]


@dataclass(frozen=True)
class Reply:
    """An answer: the pieces of its text as a stream sends them, and how it ends.

    A client that asks for no stream gets the pieces joined.
    """

    chunks: tuple[str, ...] = ("Hello", " you")
    finish: FinishReason = "stop"
    prompt_tokens: int = 5
    completion_tokens: int = 2
    calls: tuple[Called, ...] = ()
    refusal: str | None = None
    """OpenAI's refusal in words; the other protocols have a finish reason only."""
    model: str = "served-model"
    pause: float = 0.0
    """Seconds before each piece."""
    broken: Break | None = None
    after: int = 1
    """So many pieces come before it is broken."""

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.chunks)

    def breaking(self, how: Break, after: int = 1) -> Self:
        """Return the same answer, going wrong after so many pieces."""
        return replace(self, broken=how, after=after)


@dataclass(frozen=True)
class Status:
    """A refusal: a status, and an error in the shape of the protocol, or a page (``html``) as proxies send them."""

    status: int
    message: str = ""
    retry_after: float | None = None
    """Seconds; sent as ``Retry-After``, and as Google's ``RetryInfo`` in Gemini's protocol."""
    code: str | None = None
    """OpenAI's ``error.code``; in the other protocols the error's type or status is made of ``status``."""
    param: str | None = None
    html: str | None = None
    """This page instead of JSON; with status 200 it is an answer that is none."""

    @property
    def text(self) -> str:
        """The message, or one that names the status."""
        return self.message or f"this is a scripted {self.status}"


@dataclass(frozen=True)
class Silence:
    """No byte of an answer, until the client gives up."""


@dataclass(frozen=True)
class Raw:
    """These bytes, one after the other: for what no :class:`Reply` says."""

    parts: tuple[bytes, ...]
    status: int = 200
    content_type: str = "text/event-stream"
    held: bool = False
    """The answer does not end after them."""


@dataclass(frozen=True)
class Turn:
    """One message of a request."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    images: int = 0
    calls: tuple[Called, ...] = ()
    responses: str | None = None
    """Which tool call a tool's message answers: its id, or in Gemini's protocol the function's name."""


@dataclass(frozen=True)
class Asked:
    """A request of any protocol, in the words of none."""

    model: str
    streamed: bool
    turns: tuple[Turn, ...]
    include_usage: bool = True
    """OpenAI sends the usage of a stream only on demand; the others always."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    """The names of the functions that are offered."""
    tool_choice: str | None = None
    """``auto``, ``none``, ``required``, or the name of a function."""

    @property
    def system(self) -> str:
        """The system's text."""
        return "\n".join(turn.text for turn in self.turns if turn.role == "system")


@dataclass(eq=False)
class Received:
    """A request as it came."""

    protocol: ProtocolName
    path: str
    headers: Mapping[str, str]
    """The names compare without case."""
    key: str | None
    """From the protocol's own header."""
    body: dict[str, Any]
    asked: Asked
    connection: int = 0
    """The client's port: it is the same for requests that share a connection."""
    left: Future[None] = field(default_factory=Future)
    """Done when the client has closed the connection before it had the whole answer.

    ``left.result(30)`` waits for it in a test, ``asyncio.wrap_future(left)`` in an asynchronous one.
    """


Fixed = Reply | Status | Silence | Raw
Step = Fixed | Callable[[Received], Fixed]
"""What the upstream does with one request; a function decides when it sees the request."""
