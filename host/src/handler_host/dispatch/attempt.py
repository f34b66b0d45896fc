"""One attempt to serve a request: a consumer's slot, a lease and a call, counted as one dispatch.

``dispatcher.py`` repeats attempts: after a crash of the worker, and on the handler's fallbacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from handler_host.dispatch.request import Request
from handler_host.lifecycle.lease import Lease, LeaseContext
from handler_host.plugin.errors import HostError, UnknownOperation
from handler_host.telemetry.counters import CANCELLED, OTHER, Counters, Dispatch
from handler_host.telemetry.failures import describe_failure

if TYPE_CHECKING:
    from handler_host.channel.call import Call


class Attempt:
    """Attempt to run a request on one handler; it must be closed, and is counted as one dispatch then.

    ``release_slot`` releases the consumer's slot; None: the caller has no consumer.
    """

    __slots__ = (
        "_call",
        "_counters",
        "_first_chunk_s",
        "_lease",
        "_leasing",
        "_release_slot",
        "_request",
        "_started_at",
    )

    def __init__(
        self, request: Request, leasing: LeaseContext, counters: Counters, release_slot: Callable[[], None] | None
    ) -> None:
        self._request = request
        self._release_slot = release_slot
        self._leasing = leasing
        self._counters = counters
        self._lease: Lease | None = None
        self._call: Call | None = None
        self._first_chunk_s: float | None = None
        self._started_at = time.monotonic()

    async def start_call(self, *, streamed: bool) -> Call:
        """Wait for a lease and send the call to the worker; raises the :class:`HostError` of a refusal."""
        request, caller = self._request, self._request.caller
        lease = await self._leasing.__aenter__()
        self._lease = lease
        self._started_at = now = time.monotonic()
        if caller.timings is not None:
            caller.timings.start_call(lease.queue_seconds, lease.activate_seconds)
        self._call = call = lease.call(
            request.operation,
            request.body,
            streamed=streamed,
            request_id=caller.request_id,
            timeout=max(0.0, request.deadline - now),
            chain=request.chain,
            traceparent=caller.traceparent,
        )
        call.works_for = caller.counted_name
        return call

    async def read_first_chunks(self) -> list[bytes]:
        """Return the first chunks of a stream; none if it is empty."""
        assert self._call is not None, "the call has started"
        chunks = await self._call.read_chunks()
        self._first_chunk_s = time.monotonic() - self._started_at
        return chunks

    def close(self, error: BaseException | None = None) -> None:
        """Release lease and slot, cancel what has not arrived, and count; ``error`` is what ended the attempt."""
        elapsed_s = time.monotonic() - self._started_at
        request, lease, call, operation = self._request, self._lease, self._call, self._leasing.operation
        if isinstance(error, HostError):
            result = error.code
        elif call is not None:
            # Before the lease is released: that cancels the call.
            result = call.outcome or CANCELLED
        else:
            result = HostError.code if isinstance(error, Exception) else CANCELLED
        if call is not None:
            operation = request.operation
        if request.caller.timings is not None:
            reason = error if isinstance(error, HostError) else call.error if call is not None else None
            request.caller.timings.end_attempt(
                self._first_chunk_s, None if reason is None else describe_failure(reason, request.handler, request.body)
            )
        if lease is not None:
            self._leasing.release()
        if self._release_slot is not None:
            self._release_slot()
        self._counters.count_dispatch(
            Dispatch(
                request.handler,
                OTHER if operation is None or result == UnknownOperation.code else operation,
                result,
                elapsed_s if lease is None else lease.queue_seconds,
                0.0 if lease is None else lease.activate_seconds,
                None if call is None else elapsed_s,
                self._first_chunk_s,
                request.caller.counted_name,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)
