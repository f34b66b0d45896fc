"""Cheap counters of what the host did, for the metrics and for the list of handlers.

They cost a few dictionary operations for each dispatch, and need no library: who
renders them (``handler_host.routes.metrics``) is imported when somebody asks.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from handler_host.plugin.errors import BY_CODE

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper ends of the buckets of all histograms, in seconds."""
RECENT = 256
"""Dispatches of a handler that its percentiles and its error rate are of."""
OK = "ok"
CANCELLED = "cancelled"
"""The result of a dispatch whose client has left."""
OTHER = "other"
"""Stands for operations that the handler is not known to have: labels are bounded."""


class Histogram:
    """Counts of durations by bucket."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """One for each of :data:`BOUNDS`, and one for what is longer."""
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


class LatencyWindow:
    """The last dispatches of one handler: how long, and whether they failed."""

    __slots__ = ("_failed", "_next", "_seconds")

    def __init__(self) -> None:
        self._seconds = array("d")
        self._failed = bytearray()
        self._next = 0

    def add(self, seconds: float, failed: bool) -> None:
        """Take one more, in place of the oldest."""
        if len(self._seconds) < RECENT:
            self._seconds.append(seconds)
            self._failed.append(failed)
        else:
            self._seconds[self._next] = seconds
            self._failed[self._next] = failed
            self._next = (self._next + 1) % RECENT

    def quantile(self, share: float) -> float | None:
        """Return the smallest duration that so great a share of them did not exceed."""
        if not self._seconds:
            return None
        ordered = sorted(self._seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def error_rate(self) -> float | None:
        """Return which share of them failed."""
        return sum(self._failed) / len(self._failed) if self._failed else None


class Dispatch(NamedTuple):
    """One dispatch that has ended; times are seconds."""

    handler: str
    operation: str
    result: str
    """:data:`OK`, :data:`CANCELLED`, or the code of the error."""
    queue: float
    activate: float
    handle: float | None
    """In the worker, to the last byte; None: it never got there."""
    first_chunk: float | None
    """Of a stream: in the worker, to the first piece."""
    consumer: str | None = None
    """The name of the consumer's key."""


class HandlerCounters:
    """What one handler did."""

    def __init__(self) -> None:
        self.dispatches: Counter[tuple[str, str]] = Counter()
        """By operation and result."""
        self.queue = Histogram()
        self.activate = Histogram()
        """What dispatches have waited for an activation; those that have not are not in it."""
        self.handle = Histogram()
        self.first_chunk = Histogram()
        self.activations: Counter[tuple[str, str]] = Counter()
        """By who has caused it (``dispatch``, ``operator``) and result (``ok``, ``failed``)."""
        self.unloads: Counter[str] = Counter()
        """By cause, see ``handler_host.lifecycle.state.Cause``."""
        self.given_back = 0
        """Bytes that the ends of its workers gave back."""
        self.recent = LatencyWindow()


class Counters:
    """All of them, since the host's start."""

    def __init__(self) -> None:
        self.handlers: dict[str, HandlerCounters] = {}
        self.by_consumer: Counter[tuple[str, str, str]] = Counter()
        """Dispatches by the name of the key, handler and result."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """Requests that a key was refused, by its name and the reason."""
        self.wrong_keys: Counter[str] = Counter()
        """Requests with a wrong key: ``consumer`` or ``operator``."""

    def of(self, handler: str) -> HandlerCounters:
        """Return those of one handler."""
        found = self.handlers.get(handler)
        if found is None:
            found = self.handlers[handler] = HandlerCounters()
        return found

    def dispatched(self, dispatch: Dispatch) -> None:
        """Count a dispatch that has ended."""
        handler, operation, result, queue, activate, handle, first_chunk, consumer = dispatch
        own = self.of(handler)
        own.dispatches[operation, result] += 1
        own.queue.observe(queue)
        if activate:
            own.activate.observe(activate)
        if first_chunk is not None:
            own.first_chunk.observe(first_chunk)
        failed = result != OK and is_failure(result)
        if handle is not None:
            own.handle.observe(handle)
            own.recent.add(queue + activate + handle, failed)
        elif failed:
            own.recent.add(queue + activate, failed)
        if consumer is not None:
            self.by_consumer[consumer, handler, result] += 1

    def step(self, what: str, fields: Mapping[str, object]) -> None:
        """Count a step in a handler's life."""
        handler = fields.get("handler")
        if not isinstance(handler, str):
            return
        if what in ("activated", "failed"):
            result = "ok" if what == "activated" else "failed"
            self.of(handler).activations[str(fields.get("for")), result] += 1
        elif what == "unloaded":
            own = self.of(handler)
            own.unloads[str(fields.get("cause", "unknown"))] += 1
            given_back = fields.get("given_back")
            own.given_back += given_back if isinstance(given_back, int) else 0


def is_failure(result: str) -> bool:
    """Tell whether a result is the handler's or the host's fault: not the client's, and not its leaving."""
    if result in (OK, CANCELLED):
        return False
    error = BY_CODE.get(result)
    return error is None or error.status >= 429
