"""Request context: facts about one HTTP request for its routes, middleware, errors, log lines and headers."""

from __future__ import annotations

import itertools
import secrets
import string
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextvars import ContextVar
from typing import NamedTuple
from urllib.parse import quote

from aiohttp import web
from multidict import istr

from handler_host.dispatch.request import Caller, Consumer
from handler_host.plugin.errors import HostError
from handler_host.telemetry.failures import FailureText, describe_failure

REQUEST_ID = istr("X-Request-ID")
HANDLER = istr("X-Handler")
SERVER_TIMING = istr("Server-Timing")
IGNORED_FIELDS = istr("X-Ignored-Fields")

MAX_IGNORED_FIELDS = 32
"""Most names in the header of the ignored fields; ``...`` stands for the rest."""
MAX_FIELD_LENGTH = 100
"""Longest name there."""

MAX_ID_LENGTH = 128
"""Longest request ID that is taken over from a client."""
_ALLOWED = frozenset(string.ascii_letters + string.digits + "._-")
_PREFIX = secrets.token_hex(6)
_numbers = itertools.count(1)


ErrorBody = Callable[[HostError, str], bytes]
"""Returns the JSON of an error; the second argument is the request ID."""


class ForcedHandler(NamedTuple):
    """Handler that a translated request must run on, in place of the one that its model names."""

    name: str
    is_fallback: bool
    """Whether the requested handler is another one: then the model of the request is not the handler's."""
    deadline: float
    """On the clock of ``time.monotonic``, for all attempts of the native call together."""


class RequestContext:
    """Context of one request, and sink of the times of its dispatch; all times are seconds."""

    __slots__ = (
        *("_call_started_at", "_failed_s", "_failures", "_received_at", "_started_at"),
        *("activate_s", "consumer", "error_body", "failure", "first_chunk_s", "handler", "model"),
        "forced_handler",
        *(
            "ignored_fields",
            "on_end",
            "operator",
            "origin",
            "protocol",
            "queue_s",
            "request_id",
            "request_id_header",
            "tokens",
            "traceparent",
        ),
    )

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.consumer: Consumer | None = None
        """Consumer of the key; None for operators, and on a host without keys."""
        self.origin: str | None = None
        """Origin of the web page that sent the request, if it may read the response."""
        self.operator: str | None = None
        """Operator that sent the request: ``token``, or the name of a session."""
        self.traceparent: str | None = None
        """Span of this request (W3C Trace Context), if it is traced."""
        self.handler: str | None = None
        """Handler of the dispatch, once it is known to exist; after a fallback, the handler that responds."""
        self.forced_handler: ForcedHandler | None = None
        """Handler of the next dispatch, while a native call tries one handler after the other."""
        self.error_body: ErrorBody | None = None
        """Error format of the route's protocol; None: the format of most routes."""
        self.request_id_header: istr | None = None
        """Header of the route's protocol for the request ID, beside ``X-Request-ID``."""
        self.on_end: Callable[[], None] | None = None
        """Called when the request has ended: it releases the budget of the body."""
        self.protocol: str | None = None
        """Protocol of the route; None for the routes of operators and machines."""
        self.model: str | None = None
        """Model that the client named."""
        self.tokens: tuple[int, int] | None = None
        """Tokens of prompt and response, where the handler reports them."""
        self.failure: FailureText | None = None
        """Why the request failed, also after its head was sent."""
        self.queue_s: float | None = None
        """Wait for a free place in the worker; None before a call."""
        self.activate_s: float | None = None
        self.first_chunk_s: float | None = None
        """From the start of the call to the first chunk of a stream."""
        self._failures: list[FailureText] | None = None
        self._received_at = time.monotonic()
        self.ignored_fields: Sequence[str] = ()
        """Fields of the request that were left out, as paths with ``[]`` for an index."""
        self._started_at = 0.0
        self._failed_s = 0.0
        self._call_started_at: float | None = None

    def caller(self) -> Caller:
        """Return the caller of this request's dispatches."""
        return Caller(self.request_id, self.consumer, self.traceparent, self)

    def start_attempt(self, handler: str) -> None:
        """Start the clock of an attempt; an attempt before it has failed."""
        now = time.monotonic()
        if self.handler is not None:
            self._failed_s += now - self._started_at
        self.handler = handler
        self._started_at = now
        self.queue_s = self.activate_s = self.first_chunk_s = None
        self._call_started_at = None

    def start_call(self, queue_s: float, activate_s: float) -> None:
        """Note that the worker has the call, after so long in the queue and for an activation."""
        self.queue_s = queue_s
        self.activate_s = activate_s
        self._call_started_at = time.monotonic()

    def end_attempt(self, first_chunk_s: float | None, failure: FailureText | None) -> None:
        """Note the end of an attempt: the time to its first chunk, and why it failed."""
        self.first_chunk_s = first_chunk_s
        if failure is not None:
            if self._failures is None:
                self._failures = []
            self._failures.append(failure)

    @property
    def failed_attempts(self) -> list[FailureText]:
        """Attempts that failed, the first one first."""
        return self._failures or []

    def fail(self, error: HostError, status: int | None = None) -> HostError:
        """Note why the request failed and return the error; ``status`` is that of the response, if it differs."""
        failure = describe_failure(error)
        # The last attempt's text is without parts of the request; the error may be a new one with the same words.
        for attempt in self.failed_attempts:
            if attempt.code == failure.code:
                failure = failure._replace(message=attempt.message)
        self.failure = failure if status is None else failure._replace(status=status)
        return error

    def total_s(self) -> float:
        """Return the time since the request has arrived."""
        return time.monotonic() - self._received_at

    def attribute_to(self, handler: str) -> None:
        """Name the handler that the outcome belongs to."""
        self.handler = handler

    def note_tokens(self, prompt: int, response: int) -> None:
        """Note the tokens of prompt and response."""
        self.tokens = prompt, response

    def write_headers(self, headers: MutableMapping[str, str]) -> None:
        """Write the headers that every response has; the handler's time ends here, for a stream at its first chunk."""
        headers[REQUEST_ID] = self.request_id
        if self.request_id_header is not None:
            headers[self.request_id_header] = self.request_id
        if self.ignored_fields:
            headers[IGNORED_FIELDS] = _field_list(self.ignored_fields)
        if self.handler is None:
            return
        headers[HANDLER] = self.handler
        now = time.monotonic()
        queue_s, handler_s = self.queue_s or 0.0, 0.0
        if self._call_started_at is not None:
            handler_s = now - self._call_started_at
        else:
            queue_s = now - self._started_at  # refused: it only waited
        timing = (
            f"queue;dur={queue_s * 1000:.2f}, activate;dur={(self.activate_s or 0.0) * 1000:.2f}, "
            f"handler;dur={handler_s * 1000:.2f}"
        )
        if self._failed_s:
            timing = f"failed;dur={self._failed_s * 1000:.2f}, {timing}"
        headers[SERVER_TIMING] = timing


current: ContextVar[RequestContext] = ContextVar("request_context")
"""Context of the running request: aiohttp runs each request in a task, and so in a context, of its own."""


def begin(request: web.Request) -> RequestContext:
    """Make the context of a request, set it as the current one and return it."""
    client_id = request.headers.get(REQUEST_ID)
    context = RequestContext(client_id if client_id is not None and _is_valid_id(client_id) else new_request_id())
    current.set(context)
    return context


def new_request_id() -> str:
    """Return an ID that no other request has."""
    return f"{_PREFIX}-{next(_numbers)}"


def _is_valid_id(request_id: str) -> bool:
    """Return whether a client's ID may stand in headers and in the log."""
    return 0 < len(request_id) <= MAX_ID_LENGTH and _ALLOWED.issuperset(request_id)


def _field_list(names: Sequence[str]) -> str:
    """Return the names as the value of a header: unknown ones are the client's own text, and may be of any length."""
    listed = [quote(name[:MAX_FIELD_LENGTH], safe="[]._-") for name in names[:MAX_IGNORED_FIELDS]]
    return ", ".join([*listed, "..."] if len(names) > MAX_IGNORED_FIELDS else listed)
