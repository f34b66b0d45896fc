"""Failures: a bounded ring of the last failed requests, for ``handler-host why`` and the dashboard.

A record has the provider's words and address, but no secrets, and nothing longer of what the client sent.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import msgspec

from handler_host._internal.log import mask_secrets
from handler_host.plugin.errors import HostError
from handler_host.telemetry.counters import is_failure

RING = 200
"""Records that are kept of failures, and again as many of refusals."""
MAX_TEXT = 600
"""Characters at which a message or a cause is cut."""
MAX_QUOTE = 40
"""Longest quoted text, in characters, that stays in a message: longer ones may be a part of a prompt."""
ECHO = 24
"""Characters of a message that count as a copy if the request has them, too."""
MAX_BODY = 256 * 1024
"""Longest request, in bytes, that is searched for copies; of longer ones no quoted text stays."""
MAX_SEARCHED = 16 * 1024
"""Characters of a message that are looked at: to compare a megabyte would keep the loop busy for 20 s."""

# Compiled with the first failure: each costs the start of every host 0.2 ms.
_QUOTED = rf"""(?s)(["'`])((?:(?!\1).){{{MAX_QUOTE + 1},}})\1"""
_ANY_QUOTED = r"""(?s)(["'`])((?:(?!\1).)+)\1"""


class FailureText(NamedTuple):
    """Reason of a failure, as operators see it."""

    code: str
    status: int
    message: str
    cause: str | None = None
    handler: str | None = None
    """Handler of a failed attempt."""


class FailureRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One failed request; times are seconds."""

    request_id: str
    at: str
    """ISO 8601 in UTC, at its end."""
    client: str
    """Address of the client."""
    method: str
    route: str
    protocol: str
    consumer: str | None
    handler: str | None
    model: str | None
    status: int
    """HTTP status; 200 for a stream that failed after its start, 499 if the client disconnected."""
    code: str
    message: str
    cause: str | None
    """What failed below, such as the provider's address."""
    attempts: list[FailureText]
    """Every failed attempt, also those before a retry or a fallback."""
    queue_s: float | None
    activate_s: float | None
    first_chunk_s: float | None
    total_s: float


class FailureRing:
    """The last failures, as JSON; refusals of clients' own mistakes do not displace failures of handlers."""

    def __init__(self, size: int = RING) -> None:
        self._failures: deque[_Entry] = deque(maxlen=size)
        self._refusals: deque[_Entry] = deque(maxlen=size)
        self._number = 0

    def add(self, record: FailureRecord) -> None:
        """Keep a record, in place of the oldest of its kind."""
        ring = self._failures if is_failure(record.code) else self._refusals
        self._number += 1
        ring.append(_Entry(self._number, record.request_id, record.handler, msgspec.json.encode(record)))

    def find(self, request_id: str) -> list[msgspec.Raw]:
        """Return the records of a request ID, newest first; clients may use an ID again."""
        return [msgspec.Raw(entry.data) for entry in self._newest_first() if entry.request_id == request_id]

    def last(self, limit: int, handler: str | None = None) -> list[msgspec.Raw]:
        """Return the last records, newest first; with ``handler``, only those of that handler."""
        entries = [entry for entry in self._newest_first() if handler is None or entry.handler == handler]
        return [msgspec.Raw(entry.data) for entry in entries[:limit]]

    def __len__(self) -> int:
        return len(self._failures) + len(self._refusals)

    def _newest_first(self) -> Iterator[_Entry]:
        return iter(sorted(chain(self._failures, self._refusals), reverse=True))


class _Entry(NamedTuple):
    """One record; its number orders it."""

    number: int
    request_id: str
    handler: str | None
    data: bytes


def describe_failure(error: HostError, handler: str | None = None, body: bytes = b"") -> FailureText:
    """Return the reason of a failure without secrets, and without longer parts of the request ``body``."""
    message = without_echo(mask_secrets(str(error.message)), body)
    cause = None if error.cause is None else mask_secrets(error.cause)[:MAX_TEXT]
    return FailureText(error.code, error.status, message, cause, handler)


def without_echo(message: str, body: bytes) -> str:
    """Return the start of a message without long quotations, and without passages that the request has as well."""
    quoted = _QUOTED if len(body) <= MAX_BODY else _ANY_QUOTED
    message = re.sub(quoted, lambda match: f"{match[1]}<{len(match[2])} characters>{match[1]}", message)
    if not body or len(body) > MAX_BODY:
        return message[:MAX_TEXT]
    message = message[:MAX_SEARCHED]
    text = body.decode(errors="replace")
    position = 0
    while position < MAX_TEXT and position + ECHO <= len(message):
        start = text.find(message[position : position + ECHO])
        if start < 0:
            position += ECHO // 2
            continue
        first, last = position, position + ECHO
        while first > 0 and start > 0 and message[first - 1] == text[start - 1]:
            first, start = first - 1, start - 1
        end = start + last - first
        while last < len(message) and end < len(text) and message[last] == text[end]:
            last, end = last + 1, end + 1
        mark = f"<{last - first} characters of the request>"
        message = message[:first] + mark + message[last:]
        position = first + len(mark)
    return message[:MAX_TEXT]
