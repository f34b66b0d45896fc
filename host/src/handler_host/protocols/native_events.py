"""Events of a provider's stream on their way to the client: the model's name restored, the tokens counted. Pure.

Nothing else of a stream is changed, and nothing of it is decoded but the events with one of the two.
"""

from __future__ import annotations

import json

import msgspec

from handler_host.plugin.errors import UpstreamError
from handler_host.protocols.json_fields import Value, fields_of, text_of
from handler_host.protocols.native_usage import MARKER, is_only_usage, token_counts

MAX_HELD_BYTES = 1024 * 1024
"""Longest event that is held until it is complete; a longer one is passed on in parts, as it came."""
_DATA = b"data:"
_NEEDLESS = (_DATA, b":", b"id:", b"retry:")
"""Starts of the lines that an event without data may have at the end of a stream."""
_BLANK_LINES = (b"\n\n", b"\r\n\r\n")


class ModelName:
    """Name of the model that the provider was asked for, and the client's name for it.

    Args:
        path: Fields down to the name.
        sent: The provider's name.
        shown: The client's name.
    """

    def __init__(self, path: tuple[str, ...], sent: str | None, shown: str) -> None:
        self._path = path
        self.sent = sent
        self.shown = json.dumps(shown, ensure_ascii=False).encode()
        """The client's name as JSON."""
        self.marker = json.dumps(path[-1]).encode()
        """Every document with the name contains it."""
        self.differs = sent is not None and sent != shown

    def place(self, document: bytes | memoryview) -> tuple[Value, str] | None:
        """Return place and text of the name in a document, or None if it has none."""
        value = Value(0, len(document))
        try:
            for name in self._path:
                nested = fields_of(document, value.start, value.end).get(name)
                if nested is None:
                    return None
                value = nested
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
            return None
        text = text_of(document, value)
        return None if text is None else (value, text)

    def restore(self, document: bytes) -> bytes:
        """Return the document with the client's name in place of the provider's; unchanged if it has another one.

        A provider that names a dated version (``claude-haiku-4-5-20251001``) tells the client more than its own name.
        """
        if not self.differs or self.marker not in document:
            return document
        place = self.place(document)
        if place is None or place[1] != self.sent:
            return document
        value = place[0]
        return b"".join((document[: value.start], self.shown, document[value.end :]))


class EventRelay:
    """Relay of one stream of server-sent events.

    ``hides_usage``: the host has asked for the chunk with the tokens, and the client does not get it.
    """

    def __init__(self, model: ModelName, *, hides_usage: bool = False) -> None:
        self._model = model
        self._hides_usage = hides_usage
        self._restores = model.differs
        self._held = bytearray()
        self._is_inside_event = False
        """Whether a part of an event that was too long to be held has been passed on."""
        self._start = self._restored_start = b""
        """Line of the last event up to the model's name, which most events of a stream have in common."""
        self.tokens: dict[str, int] = {}

    def is_between_events(self) -> bool:
        """Return whether the client has received whole events only, so that a comment may follow."""
        return not self._is_inside_event

    def feed(self, data: bytes) -> bytes:
        """Return the bytes to send now: the events that are complete."""
        held = self._held
        searched = max(0, len(held) - 3)
        held += data
        end = max(held.rfind(blank, searched) + len(blank) if blank in held[searched:] else 0 for blank in _BLANK_LINES)
        if not end:
            if len(held) <= MAX_HELD_BYTES:
                return b""
            end = len(held)
            complete, self._is_inside_event = bytes(held), True
            held.clear()
            return complete
        complete = bytes(memoryview(held)[:end])
        del held[:end]
        was_inside, self._is_inside_event = self._is_inside_event, False
        return complete if was_inside else self._process(complete)

    def last(self) -> bytes:
        """Return the bytes of an event that the provider has not ended; raises ``UpstreamError`` if it is cut off."""
        rest = bytes(self._held)
        self._held.clear()
        if not self._is_inside_event and not _is_whole(rest):
            raise UpstreamError("the provider's response was cut off within an event")
        return rest

    def drop_incomplete(self) -> bytes:
        """Forget the event that is incomplete, and return the bytes that end it for the client."""
        self._held.clear()
        was_inside, self._is_inside_event = self._is_inside_event, False
        return b"\n\n" if was_inside else b""

    def _process(self, events: bytes) -> bytes:
        has_model = self._restores and self._model.marker in events
        if not has_model and MARKER not in events:
            return events
        lines = events.split(b"\n")
        for number, line in enumerate(lines):
            if not line.startswith(_DATA):
                continue
            if self._restores:
                lines[number] = self._restore(line)
            if MARKER in line and (tokens := token_counts(line[len(_DATA) :])):
                for kind, count in tokens.items():
                    self.tokens[kind] = max(count, self.tokens.get(kind, 0))
                if self._hides_usage and is_only_usage(line[len(_DATA) :]):
                    lines[number] = b": usage"
        return b"\n".join(lines)

    def _restore(self, line: bytes) -> bytes:
        if self._start and line.startswith(self._start):
            return self._restored_start + line[len(self._start) :]
        if self._model.marker not in line:
            return line
        place = self._model.place(line[len(_DATA) :])
        if place is None:
            return line
        value, name = place
        end = len(_DATA) + value.end
        self._start = self._restored_start = line[:end]
        if name == self._model.sent:
            self._restored_start = line[: len(_DATA) + value.start] + self._model.shown
        return self._restored_start + line[end:]


def _is_whole(rest: bytes) -> bool:
    """Return whether the data of one event without an empty line is a JSON document or ``[DONE]``.

    Several events, whose lines end with carriage returns alone, count as whole, and so does what clients need not have:
    comments, ``id`` and ``retry``.
    """
    lines = rest.splitlines()
    data = b"".join(line[len(_DATA) :] for line in lines if line.startswith(_DATA)).strip()
    if b"" in lines or data == b"[DONE]":
        return True
    if not data:
        return all(line.startswith(_NEEDLESS) for line in lines)
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
