"""What is noted of one HTTP request while it is answered, and told in the headers of its answer."""

from __future__ import annotations

import itertools
import secrets
import string
import time
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from aiohttp import web
from multidict import istr

from handler_host.plugin.errors import HostError

if TYPE_CHECKING:
    from handler_host.auth.consumers import Consumer

REQUEST_ID = istr("X-Request-ID")
HANDLER = istr("X-Handler")
SERVER_TIMING = istr("Server-Timing")

MAX_ID = 128
"""Longest request number that is taken over from a client."""
_ALLOWED = frozenset(string.ascii_letters + string.digits + "._-")
_PREFIX = secrets.token_hex(6)
_numbers = itertools.count(1)


Envelope = Callable[[HostError, str], bytes]
"""The JSON of an error, of the error and the request's number."""


class RequestContext:
    """One request and its answer; times are seconds."""

    __slots__ = (
        *("_activate", "_asked_at", "_dispatched_at", "_others", "_queue"),
        *("also", "consumer", "error_body", "handler", "operator", "origin", "request_id", "traceparent"),
    )

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.consumer: Consumer | None = None
        """Who has asked; None where there are no keys, and for operators."""
        self.origin: str | None = None
        """The origin of the web page that has asked, if it may read the answer."""
        self.operator: str | None = None
        """Who of the operators has asked: ``token``, or the name of a session."""
        self.traceparent: str | None = None
        """The span of this request (W3C Trace Context), if it is traced."""
        self.handler: str | None = None
        """The handler that was asked, once it is known that there is one."""
        self.error_body: Envelope | None = None
        """How the protocol of this route shows errors; None: as most routes do."""
        self.also: istr | None = None
        """Another header for the request's number, where this protocol's clients look for one."""
        self._asked_at = 0.0
        self._others = 0.0
        self._queue = 0.0
        self._activate = 0.0
        self._dispatched_at: float | None = None

    def allows(self, handler: str) -> bool:
        """Tell whether who asks may ask for this handler."""
        return self.consumer is None or self.consumer.allows(handler)

    def asked(self, handler: str) -> None:
        """Note that the handler is asked now; if there was another one before, that has failed."""
        now = time.monotonic()
        if self.handler is not None:
            self._others += now - self._asked_at
        self.handler = handler
        self._asked_at = now
        self._queue = self._activate = 0.0
        self._dispatched_at = None

    def dispatched(self, queue: float, activate: float) -> None:
        """Note that the worker gets the dispatch now, after so long in the queue and so long for its activation."""
        self._queue = queue
        self._activate = activate
        self._dispatched_at = time.monotonic()

    def stamp(self, headers: MutableMapping[str, str]) -> None:
        """Write the headers that every answer has; the handler's time ends now, for a stream with its first piece."""
        headers[REQUEST_ID] = self.request_id
        if self.also is not None:
            headers[self.also] = self.request_id
        if self.handler is None:
            return
        headers[HANDLER] = self.handler
        now = time.monotonic()
        queue, taken = self._queue, 0.0
        if self._dispatched_at is not None:
            taken = now - self._dispatched_at
        else:
            queue = now - self._asked_at  # refused: all that it did was to wait
        timing = (
            f"queue;dur={queue * 1000:.2f}, activate;dur={self._activate * 1000:.2f}, handler;dur={taken * 1000:.2f}"
        )
        if self._others:
            timing = f"failed;dur={self._others * 1000:.2f}, {timing}"
        headers[SERVER_TIMING] = timing


current: ContextVar[RequestContext] = ContextVar("exchange")
"""The exchange of the running request: aiohttp gives each request a task, and so a context, of its own."""


def begin(request: web.Request) -> RequestContext:
    """Return the new exchange of a request, and make it the current one."""
    given = request.headers.get(REQUEST_ID)
    exchange = RequestContext(given if given is not None and _is_sane(given) else new_request_id())
    current.set(exchange)
    return exchange


def new_request_id() -> str:
    """Return a number that no other request has."""
    return f"{_PREFIX}-{next(_numbers)}"


def _is_sane(request_id: str) -> bool:
    """Tell whether a client's number may stand in headers and in the log."""
    return 0 < len(request_id) <= MAX_ID and _ALLOWED.issuperset(request_id)
