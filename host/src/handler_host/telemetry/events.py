"""Events of the host: a bounded ring of past events, and a bounded queue for each listener.

Events are numbered. A listener that reconnects gets the events after the last one it has
seen; a listener that reads too slowly loses the oldest ones and learns how many.
"""

from __future__ import annotations

import asyncio
import datetime
import secrets
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

from handler_host._internal.log import format_time, to_json, to_plain

KINDS = {
    "startup": "The host starts to read its catalog.",
    "ready": "The host serves requests.",
    "rescan": "The host has read the catalog again.",
    "waiting": "An activation waits for memory.",
    "activating": "A worker starts.",
    "activated": "A worker is ready.",
    "failed": "An activation failed.",
    "draining": "A worker gets no new dispatches.",
    "unloaded": "A worker has ended, for any cause: idle, operator, reload, evicted, crash.",
    "pinned": "A handler was pinned or unpinned.",
    "forgotten": "The memory that was learned of a handler was discarded; `versions` is the number of versions.",
    "drain": "The host rejects new work.",
    "audit": "An operator made or tried a change.",
    "stopping": "The host shuts down.",
}
"""All kinds of events, with their meanings."""

RING = 500
"""Past events that the hub keeps for replay."""
QUEUE = 200
"""Events queued for one listener; beyond, it loses the oldest."""
MAX_LISTENERS = 128


class Event(NamedTuple):
    """One event; ``data`` is the whole event as JSON."""

    number: int
    kind: str
    handler: str | None
    data: bytes


class EventFilter(NamedTuple):
    """The events that a listener gets; an empty set stands for all."""

    handlers: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()

    def matches(self, event: Event) -> bool:
        """Return whether the listener gets the event."""
        return (not self.kinds or event.kind in self.kinds) and (not self.handlers or event.handler in self.handlers)


class Batch(NamedTuple):
    """Events for a listener, and how many it lost before them; ``lost`` is None if it last listened to another run."""

    lost: int | None
    events: list[Event]


class Listener:
    """One listener; a context manager that leaves the hub at its end."""

    def __init__(self, hub: EventHub, filter: EventFilter, lost: int | None, missed: list[Event], limit: int) -> None:
        self._hub = hub
        self._filter = filter
        self._lost = lost
        self._queue: deque[Event] = deque(missed)
        self._limit = limit
        self._closed = False
        self._changed = asyncio.Event()
        if missed or lost != 0:
            self._changed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.remove(self)

    def offer(self, event: Event) -> None:
        """Queue an event, in place of the oldest if the queue is full; called by the hub."""
        if not self._filter.matches(event):
            return
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self._lost = (self._lost or 0) + 1
            self._hub.lost += 1
        self._queue.append(event)
        self._changed.set()

    def close(self) -> None:
        """End the listener after its queued events; called by the hub."""
        self._closed = True
        self._changed.set()

    def pop(self) -> Batch:
        """Return the queued events without waiting."""
        batch = Batch(self._lost, list(self._queue))
        self._lost = 0
        self._queue.clear()
        if not self._closed:
            self._changed.clear()
        return batch

    async def next(self) -> Batch | None:
        """Wait for events and return them; None at the end."""
        await self._changed.wait()
        batch = self.pop()
        return batch if batch.events or batch.lost != 0 or not self._closed else None


class EventHub:
    """Numbers events, keeps the last ones and sends them to the listeners."""

    def __init__(self, ring: int = RING, queue: int = QUEUE) -> None:
        self.run = secrets.token_hex(4)
        """Prefix of the event IDs: numbers of another run of the host mean nothing here."""
        self.lost = 0
        """Events that slow listeners lost, of all listeners."""
        self._number = 0
        self._past: deque[Event] = deque(maxlen=ring)
        self._queue = queue
        self._listeners: dict[Listener, None] = {}
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many listeners there are."""
        return len(self._listeners)

    @property
    def full(self) -> bool:
        """Whether the hub accepts no further listener."""
        return len(self._listeners) >= MAX_LISTENERS

    @property
    def past(self) -> Iterator[Event]:
        """The past events in the ring, oldest first."""
        return iter(self._past)

    def publish(self, kind: str, fields: Mapping[str, object]) -> None:
        """Send an event to the listeners; secrets in it are masked as in the log."""
        self._number += 1
        handler = fields.get("handler")
        now = format_time(datetime.datetime.now(datetime.UTC))
        figures = {name: to_plain(value) for name, value in fields.items()}
        data = to_json({"id": f"{self.run}-{self._number}", "at": now, "kind": kind} | figures).encode()
        event = Event(self._number, kind, handler if isinstance(handler, str) else None, data)
        self._past.append(event)
        for listener in self._listeners:
            listener.offer(event)

    def listen(self, filter: EventFilter, *, after: str | None = None, replay: int = 0) -> Listener:
        """Return a new listener.

        With ``after``, the ID of the last event that it has seen, it first gets all events since;
        without, the last ``replay`` events.
        """
        lost, past = self._missed(after) if after is not None else (0, list(self._past))
        missed = [event for event in past if filter.matches(event)]
        if after is None:
            missed = missed[len(missed) - replay :] if replay < len(missed) else missed
        listener = Listener(self, filter, lost, missed, max(self._queue, len(missed)))
        self._listeners[listener] = None
        if self._closed:
            listener.close()
        return listener

    def remove(self, listener: Listener) -> None:
        """Send no more events to a listener."""
        self._listeners.pop(listener, None)

    def close(self) -> None:
        """End all listeners."""
        self._closed = True
        for listener in self._listeners:
            listener.close()

    def _missed(self, after: str) -> tuple[int | None, list[Event]]:
        """Return how many events since ``after`` are lost, and the others."""
        run, _, digits = after.rpartition("-")
        if run != self.run or not digits.isdecimal() or len(digits) > 18 or int(digits) > self._number:
            return None, list(self._past)
        last_seen = int(digits)
        first = self._past[0].number if self._past else self._number + 1
        return max(0, first - last_seen - 1), [event for event in self._past if event.number > last_seen]
