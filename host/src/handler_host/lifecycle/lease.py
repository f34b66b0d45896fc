"""The lease of a dispatch: its place on a worker, from admission to its last byte."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from handler_host.channel.timeouts import CallTimeouts
from handler_host.config import HandlerPolicy
from handler_host.plugin.errors import HostError

if TYPE_CHECKING:
    from handler_host.channel.call import Call
    from handler_host.channel.channel import Channel
    from handler_host.workers.worker import Worker


class Lease:
    """A place on one worker; the handler's controller grants it, refuses it, or ends it."""

    __slots__ = (
        "_calls",
        "_decision",
        "activate_seconds",
        "channel",
        "cold",
        "error",
        "generation",
        "handler",
        "policy",
        "queue_seconds",
        "requested_at",
        "requested_for",
    )

    def __init__(self, handler: str, policy: HandlerPolicy, requested_for: str) -> None:
        self.handler = handler
        self.policy = policy
        self.requested_for = requested_for
        """The cause of an activation for it: ``dispatch`` or ``deploy check``."""
        self.generation = 0
        self.channel: Channel | None = None
        """The channel to the worker; None until the lease is granted."""
        self.cold = False
        """Whether the dispatch waited for an activation."""
        self.queue_seconds = 0.0
        """Seconds that it waited, without the activation."""
        self.activate_seconds = 0.0
        """Seconds that it waited for an activation."""
        self.requested_at = time.monotonic()
        self.error: HostError | None = None
        """Why it was refused or ended."""
        self._decision: asyncio.Future[None] | None = None
        self._calls: list[Call] = []

    def call(
        self,
        operation: str,
        body: bytes,
        *,
        streamed: bool,
        request_id: str,
        timeout: float | None,
        chain: tuple[str, ...] = (),
        traceparent: str | None = None,
    ) -> Call:
        """Send the dispatch to the worker; ``timeout`` is its remaining time, in seconds.

        ``chain`` names the handlers that wait for it, if one of them has made it.
        """
        assert self.channel is not None, "a granted lease has a channel"
        policy = self.policy
        first_byte = policy.first_byte_timeout if timeout is None else min(policy.first_byte_timeout, timeout)
        timeouts = CallTimeouts(total=timeout, first_byte=first_byte, gap=policy.gap_timeout)
        call = self.channel.call(
            operation,
            body,
            streamed=streamed,
            request_id=request_id,
            timeouts=timeouts,
            chain=chain,
            traceparent=traceparent,
        )
        self._calls.append(call)
        if self.error is not None:
            call.abort(self.error)
        return call

    async def health(self, *, request_id: str, timeout: float) -> None:
        """Run the handler's health hook; raises the :class:`HostError` of its failure or of the worker's end."""
        assert self.channel is not None, "a granted lease has a channel"
        call = self.channel.check_health(request_id=request_id, timeout=timeout)
        self._calls.append(call)
        await call.read_response()

    def grant(self, worker: Worker) -> None:
        """Grant the lease on ``worker`` (for the controller)."""
        now = time.monotonic()
        self.generation = worker.generation
        self.channel = worker.channel
        ready_at = worker.ready_at
        if ready_at is not None and ready_at > self.requested_at:
            self.cold = True
            self.activate_seconds = ready_at - max(self.requested_at, worker.launched_at)
        self.queue_seconds = max(0.0, now - self.requested_at - self.activate_seconds)
        self._wake()

    def refuse(self, error: HostError) -> None:
        """Refuse the lease (for the controller)."""
        self.error = error
        self._wake()

    def end(self, error: HostError) -> None:
        """End the calls in flight with ``error`` (for the controller)."""
        self.error = error
        for call in self._calls:
            call.abort(error)

    def cancel(self) -> None:
        """Cancel the calls that have not ended (for the controller)."""
        for call in self._calls:
            call.cancel()

    async def wait(self, patience: float | None) -> bool:
        """Wait for the decision, at most ``patience`` seconds; return whether the lease is granted.

        Raises the :class:`HostError` of a refusal.
        """
        if self.channel is None and self.error is None:
            loop = asyncio.get_running_loop()
            self._decision = loop.create_future()
            # A handle of its own, and only for a dispatch that waits: asyncio.timeout costs a warm one several percent.
            timer = loop.call_later(patience, self._wake) if patience is not None else None
            try:
                await self._decision
            finally:
                if timer is not None:
                    timer.cancel()
        if self.channel is None and self.error is not None:
            raise self.error.copy()
        return self.channel is not None

    def _wake(self) -> None:
        """Wake the waiter."""
        if self._decision is not None and not self._decision.done():
            self._decision.set_result(None)


class LeaseSource(Protocol):
    """Grants leases on a handler's workers."""

    async def admit(self, dispatch: int, patience: float | None, affinity: str | None, requested_for: str) -> Lease:
        """Return a lease for the dispatch; raises :class:`HostError`."""

    def release(self, dispatch: int) -> None:
        """Release the lease of a dispatch."""


class LeaseContext:
    """Holds a lease for the block that it is entered for."""

    __slots__ = ("_affinity", "_dispatch", "_patience", "_requested_for", "_source", "operation")

    def __init__(
        self,
        source: LeaseSource,
        dispatch: int,
        patience: float | None,
        operation: str | None,
        affinity: str | None,
        requested_for: str,
    ) -> None:
        self.operation = operation
        """The requested operation, if the handler is known to have it."""
        self._source = source
        self._dispatch = dispatch
        self._patience = patience
        self._affinity = affinity
        self._requested_for = requested_for

    async def __aenter__(self) -> Lease:
        return await self._source.admit(self._dispatch, self._patience, self._affinity, self._requested_for)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Release the lease; for a caller that has entered this without a block."""
        self._source.release(self._dispatch)
