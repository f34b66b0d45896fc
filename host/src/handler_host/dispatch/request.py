"""A request below HTTP: handler and operation, body, caller and deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from handler_host.telemetry.failures import FailureText


class Consumer(Protocol):
    """Rights and limits of an API key, as dispatches need them."""

    @property
    def name(self) -> str:
        """Name of the key in metrics and errors."""

    @property
    def unsupported(self) -> str | None:
        """How chats of this key treat unsupported fields; None: as the handler's configuration says."""

    @property
    def has_token_limit(self) -> bool:
        """Whether the tokens of the consumer are limited."""

    def allows(self, handler: str) -> bool:
        """Return whether the consumer may use this handler."""

    def count_tokens(self, tokens: int) -> None:
        """Count the input and output tokens of a response."""

    async def acquire(self) -> Callable[[], None]:
        """Count a dispatch that starts; return the function that counts its end.

        Raises ``RateLimited``, and ``LimitsUnavailable`` if the shared server must decide and does not respond.
        """


class Timings(Protocol):
    """Sink for the times and tokens of a dispatch; all times are seconds."""

    def start_attempt(self, handler: str) -> None:
        """Start the clock of an attempt; an attempt before it has failed."""

    def start_call(self, queue_s: float, activate_s: float) -> None:
        """Note that the worker has the call, after so long in the queue and for an activation."""

    def end_attempt(self, first_chunk_s: float | None, failure: FailureText | None) -> None:
        """Note the end of an attempt: the time to its first chunk, and why it failed."""

    def attribute_to(self, handler: str) -> None:
        """Name the handler that the outcome belongs to."""

    def note_tokens(self, prompt: int, response: int) -> None:
        """Note the tokens of prompt and response."""


class Caller(msgspec.Struct, frozen=True):
    """Client, operator or handler that a dispatch runs for."""

    request_id: str
    consumer: Consumer | None = None
    """None: no rights or limits of a key apply (host without keys, operator, handler)."""
    traceparent: str | None = None
    """Span that the dispatch belongs to (W3C Trace Context); None: not traced."""
    timings: Timings | None = None
    works_for: str | None = None
    """Name of the consumer that a dispatch of a handler counts to; its rights do not apply to it."""

    @property
    def counted_name(self) -> str | None:
        """Name of the consumer that the dispatch counts to; None on a host without keys, and for operators."""
        return self.consumer.name if self.consumer is not None else self.works_for


class Request(msgspec.Struct, frozen=True):
    """One dispatch: an operation of a handler, for a caller.

    The defaults are those of a client's request. The operators' try-it box differs in its caller, which has no
    consumer; a handler call has no consumer either, sets ``in_progress`` and ``chain``, and chooses ``fallback``.
    """

    handler: str
    operation: str
    body: bytes
    """JSON."""
    caller: Caller
    deadline: float
    """On the clock of ``time.monotonic``, for all attempts together."""
    fallback: bool = True
    """Whether the handler's fallbacks are tried if it fails."""
    retry_on_crash: bool = True
    """Whether the operation runs once more after a crash, if its manifest marks it ``retry_on_crash``."""
    in_progress: bool = False
    """Whether it belongs to a dispatch in progress: a host that drains runs it."""
    chain: tuple[str, ...] = ()
    """Handlers that wait for this dispatch, the first one first; none of them runs it."""
    affinity: str | None = None
    """Key of requests that prefer the same worker of a handler with several."""
