"""Counters of the host's work, for the metrics and for the list of handlers.

They cost a few dictionary operations per dispatch and need no library:
``handler_host.telemetry.metric_families`` renders them and is imported at the first scrape.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from handler_host.plugin.errors import BY_CODE

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the buckets of all histograms, in seconds."""
WINDOW = 256
"""Dispatches of a handler in its percentiles and its error rate."""
OK = "ok"
CANCELLED = "cancelled"
"""The result of a dispatch whose client disconnected."""
OTHER = "other"
"""The label of every operation that the handler does not declare, so that labels are bounded."""


class Histogram:
    """Counts of durations by bucket."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """One for each of :data:`BOUNDS`, and one for longer durations."""
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


class LatencyWindow:
    """Durations and failures of the last :data:`WINDOW` dispatches of one handler."""

    __slots__ = ("_failed", "_next", "_seconds")

    def __init__(self) -> None:
        self._seconds = array("d")
        self._failed = bytearray()
        self._next = 0

    def add(self, seconds: float, failed: bool) -> None:
        """Add a dispatch, in place of the oldest one."""
        if len(self._seconds) < WINDOW:
            self._seconds.append(seconds)
            self._failed.append(failed)
        else:
            self._seconds[self._next] = seconds
            self._failed[self._next] = failed
            self._next = (self._next + 1) % WINDOW

    def quantile(self, share: float) -> float | None:
        """Return the duration that this share of the dispatches did not exceed; None without dispatches."""
        if not self._seconds:
            return None
        ordered = sorted(self._seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def error_rate(self) -> float | None:
        """Return the share of failed dispatches; None without dispatches."""
        return sum(self._failed) / len(self._failed) if self._failed else None


class Dispatch(NamedTuple):
    """One finished dispatch; times are seconds."""

    handler: str
    operation: str
    result: str
    """:data:`OK`, :data:`CANCELLED`, or the code of the error."""
    queue: float
    activate: float
    handle: float | None
    """In the worker, to the last byte; None if it never reached a worker."""
    first_chunk: float | None
    """In the worker, to the first chunk of a stream."""
    consumer: str | None = None
    """The name of the consumer's key."""


class HandlerCounters:
    """The counters of one handler."""

    def __init__(self) -> None:
        self.dispatches: Counter[tuple[str, str]] = Counter()
        """By operation and result."""
        self.queue = Histogram()
        self.activate = Histogram()
        """Waits for an activation, of the dispatches that had to wait."""
        self.handle = Histogram()
        self.first_chunk = Histogram()
        self.activations: Counter[tuple[str, str]] = Counter()
        """By cause (``dispatch``, ``operator``, ``growth``, ``deploy check``) and result (``ok``, ``failed``)."""
        self.unloads: Counter[str] = Counter()
        """By cause, see ``handler_host.lifecycle.state.Cause``."""
        self.given_back = 0
        """Bytes that the exits of its workers released."""
        self.window = LatencyWindow()


class Counters:
    """All counters since the start of the host."""

    def __init__(self) -> None:
        self.handlers: dict[str, HandlerCounters] = {}
        self.by_consumer: Counter[tuple[str, str, str]] = Counter()
        """Dispatches by consumer, handler and result."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """Rejected requests by consumer and reason."""
        self.shared_calls: Counter[str] = Counter()
        """Calls of the shared server by result."""
        self.wrong_keys: Counter[str] = Counter()
        """Requests with a wrong key: ``consumer`` or ``operator``."""

    def count_shared_call(self, result: str) -> None:
        """Count a call of the shared server: ``ok`` or ``failed``."""
        self.shared_calls[result] += 1

    def for_handler(self, handler: str) -> HandlerCounters:
        """Return the counters of one handler."""
        counters = self.handlers.get(handler)
        if counters is None:
            counters = self.handlers[handler] = HandlerCounters()
        return counters

    def count_dispatch(self, dispatch: Dispatch) -> None:
        """Count a finished dispatch."""
        handler, operation, result, queue, activate, handle, first_chunk, consumer = dispatch
        own = self.for_handler(handler)
        own.dispatches[operation, result] += 1
        own.queue.observe(queue)
        if activate:
            own.activate.observe(activate)
        if first_chunk is not None:
            own.first_chunk.observe(first_chunk)
        failed = result != OK and is_failure(result)
        if handle is not None:
            own.handle.observe(handle)
            own.window.add(queue + activate + handle, failed)
        elif failed:
            own.window.add(queue + activate, failed)
        if consumer is not None:
            self.by_consumer[consumer, handler, result] += 1

    def count_step(self, kind: str, fields: Mapping[str, object]) -> None:
        """Count a step in a handler's lifecycle; ``kind`` is one of ``handler_host.telemetry.events.KINDS``."""
        handler = fields.get("handler")
        if not isinstance(handler, str):
            return
        if kind in ("activated", "failed"):
            result = "ok" if kind == "activated" else "failed"
            self.for_handler(handler).activations[str(fields.get("for")), result] += 1
        elif kind == "unloaded":
            own = self.for_handler(handler)
            own.unloads[str(fields.get("cause", "unknown"))] += 1
            given_back = fields.get("given_back")
            own.given_back += given_back if isinstance(given_back, int) else 0


def is_failure(result: str) -> bool:
    """Return whether a result counts as a failure of the handler or the host, not of the client."""
    if result in (OK, CANCELLED):
        return False
    error = BY_CODE.get(result)
    return error is None or error.status >= 429
