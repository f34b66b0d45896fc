"""Counts one dispatch: how it ended, and what its time went into."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from handler_host.channel.call import Call
from handler_host.http import request_context
from handler_host.lifecycle.lease import Lease
from handler_host.plugin.errors import HostError, RateLimited, UnknownOperation
from handler_host.telemetry.counters import CANCELLED, OTHER, Counters, Dispatch


class DispatchRecorder:
    """Counts what happens in its block as one dispatch.

    Entering it raises ``RateLimited`` for a consumer with too many under way.
    """

    __slots__ = (
        "_began",
        "_call",
        "_consumer",
        "_counters",
        "_first_chunk",
        "_handle",
        "_handler",
        "_lease",
        "_operation",
        "_result",
    )

    def __init__(self, counters: Counters, handler: str, operation: str | None) -> None:
        self._counters = counters
        self._handler = handler
        self._operation = operation
        self._began = time.monotonic()
        self._consumer = request_context.current.get().consumer
        self._lease: Lease | None = None
        self._call: Call | None = None
        self._handle: float | None = None
        self._first_chunk: float | None = None
        self._result: str | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def open(self) -> None:
        """Begin; whoever gets through has to :meth:`close`."""
        if self._consumer is not None:
            try:
                self._consumer.begin()
            except RateLimited:
                self._counters.refused[self._consumer.name, "concurrency"] += 1
                raise

    def begin(self, lease: Lease, call: Call, operation: str) -> None:
        """Note that the worker gets the dispatch now."""
        self._lease, self._call, self._operation = lease, call, operation
        self._began = time.monotonic()

    def first_chunk(self) -> None:
        """Note that a stream begins."""
        self._first_chunk = time.monotonic() - self._began

    def end(self) -> None:
        """Note that the worker is done with it, or nobody waits any more; before the lease is given back."""
        if self._call is None:
            return
        self._handle = time.monotonic() - self._began
        self._result = self._call.outcome or CANCELLED

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    def close(self, error: BaseException | None) -> None:
        """Count the dispatch; ``error`` is what has ended it, if not its worker's answer has."""
        if self._consumer is not None:
            self._consumer.end()
        result = self._result
        if isinstance(error, HostError):
            result = error.code
        elif result is None:
            result = HostError.code if isinstance(error, Exception) else CANCELLED
        lease = self._lease
        operation = OTHER if self._operation is None or result == UnknownOperation.code else self._operation
        queue = lease.queue_seconds if lease is not None else time.monotonic() - self._began
        activate = lease.activate_seconds if lease is not None else 0.0
        consumer = self._consumer.name if self._consumer is not None else None
        self._counters.count_dispatch(
            Dispatch(self._handler, operation, result, queue, activate, self._handle, self._first_chunk, consumer)
        )
