"""What happens in the host, told to whoever listens: a bounded past, and a bounded queue for each listener.

An event is numbered. Who was away asks for what came after the last one it has
seen; who reads too slowly loses the oldest, and is told how many.
"""

from __future__ import annotations

import asyncio
import datetime
import secrets
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

from handler_host._internal.log import to_json, to_plain

KINDS = {
    "startup": "The host begins to read its catalog.",
    "ready": "The host answers.",
    "rescan": "The catalog was read anew.",
    "waiting": "An activation waits for memory.",
    "activating": "A worker is being launched.",
    "activated": "A worker is ready.",
    "failed": "An activation has failed.",
    "draining": "A worker takes nothing new any more.",
    "unloaded": "A worker is gone, whatever the cause: idle, operator, reload, evicted, crash.",
    "pinned": "A handler was pinned, or is not any more.",
    "drain": "The host takes no new work.",
    "audit": "An operator did something, or tried to.",
    "stopping": "The host shuts down.",
}
"""All kinds of events, and what they mean."""

RING = 500
"""Events that are kept for who comes late."""
QUEUE = 200
"""Events that wait for one listener; then the oldest is lost."""
MAX_LISTENERS = 128


class Event(NamedTuple):
    """One of them; ``data`` is the whole of it as JSON."""

    number: int
    kind: str
    handler: str | None
    data: bytes


class Wanted(NamedTuple):
    """What a listener wants to hear; an empty set stands for all."""

    handlers: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()

    def holds(self, event: Event) -> bool:
        """Tell whether the event is wanted."""
        return (not self.kinds or event.kind in self.kinds) and (not self.handlers or event.handler in self.handlers)


class Batch(NamedTuple):
    """What a listener gets at a time: how many it has lost before, then the events; None: the past is another run's."""

    lost: int | None
    events: list[Event]


class Listener:
    """One listener; leave it as a context manager."""

    def __init__(self, hub: EventHub, wanted: Wanted, lost: int | None, missed: list[Event], limit: int) -> None:
        self._hub = hub
        self._wanted = wanted
        self._lost = lost
        self._queue: deque[Event] = deque(missed)
        self._limit = limit
        self._closed = False
        self._news = asyncio.Event()
        if missed or lost != 0:
            self._news.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.forget(self)

    def take(self, event: Event) -> None:
        """Queue an event, in place of the oldest if there is no room; called by the hub."""
        if not self._wanted.holds(event):
            return
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self._lost = (self._lost or 0) + 1
            self._hub.lost += 1
        self._queue.append(event)
        self._news.set()

    def close(self) -> None:
        """Let it end when it has had what is queued; called by the hub."""
        self._closed = True
        self._news.set()

    def ready(self) -> Batch:
        """Return what is queued now, without waiting."""
        batch = Batch(self._lost, list(self._queue))
        self._lost = 0
        self._queue.clear()
        if not self._closed:
            self._news.clear()
        return batch

    async def next(self) -> Batch | None:
        """Wait for events; None: there will be none any more."""
        await self._news.wait()
        batch = self.ready()
        return batch if batch.events or batch.lost != 0 or not self._closed else None


class EventHub:
    """Numbers events, keeps the last ones, and tells them to the listeners."""

    def __init__(self, ring: int = RING, queue: int = QUEUE) -> None:
        self.run = secrets.token_hex(4)
        """Stands before the numbers: those of another run of the host mean nothing here."""
        self.lost = 0
        """Events that listeners were too slow for, in all."""
        self._number = 0
        self._past: deque[Event] = deque(maxlen=ring)
        self._queue = queue
        self._listeners: dict[Listener, None] = {}
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many there are."""
        return len(self._listeners)

    @property
    def full(self) -> bool:
        """Whether there is no place for one more."""
        return len(self._listeners) >= MAX_LISTENERS

    @property
    def past(self) -> Iterator[Event]:
        """The events that are kept, oldest first."""
        return iter(self._past)

    def publish(self, kind: str, fields: Mapping[str, object]) -> None:
        """Tell an event; secrets in it are masked as they are in the log."""
        self._number += 1
        handler = fields.get("handler")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        figures = {name: to_plain(value) for name, value in fields.items()}
        data = to_json({"id": f"{self.run}-{self._number}", "at": now, "kind": kind} | figures).encode()
        event = Event(self._number, kind, handler if isinstance(handler, str) else None, data)
        self._past.append(event)
        for listener in self._listeners:
            listener.take(event)

    def listen(self, wanted: Wanted, *, after: str | None = None, replay: int = 0) -> Listener:
        """Return a new listener.

        ``after`` is the last event that it has seen: it gets what came since. Without
        it it gets the last ``replay`` events first.
        """
        lost, past = self._missed(after) if after is not None else (0, list(self._past))
        missed = [event for event in past if wanted.holds(event)]
        if after is None:
            missed = missed[len(missed) - replay :] if replay < len(missed) else missed
        listener = Listener(self, wanted, lost, missed, max(self._queue, len(missed)))
        self._listeners[listener] = None
        if self._closed:
            listener.close()
        return listener

    def forget(self, listener: Listener) -> None:
        """Tell it nothing any more."""
        self._listeners.pop(listener, None)

    def close(self) -> None:
        """Let all listeners end."""
        self._closed = True
        for listener in self._listeners:
            listener.close()

    def _missed(self, after: str) -> tuple[int | None, list[Event]]:
        """Return how many are lost since ``after``, and those that are still there."""
        run, _, digits = after.rpartition("-")
        if run != self.run or not digits.isdecimal() or len(digits) > 18 or int(digits) > self._number:
            return None, list(self._past)
        seen = int(digits)
        first = self._past[0].number if self._past else self._number + 1
        return max(0, first - seen - 1), [event for event in self._past if event.number > seen]
