"""What a dispatch holds on a worker, from admission to its last byte."""

from __future__ import annotations

import asyncio
import time

from handler_host.channel.call import Call, CallTimeouts
from handler_host.channel.channel import Channel
from handler_host.config import HandlerPolicy
from handler_host.plugin.errors import HostError
from handler_host.workers.worker import Worker


class Lease:
    """A place on the worker of one generation; the owner grants it, refuses it, or ends it."""

    __slots__ = (
        "_calls",
        "_outcome",
        "activate_seconds",
        "asked_at",
        "channel",
        "cold",
        "error",
        "generation",
        "handler",
        "policy",
        "queue_seconds",
    )

    def __init__(self, handler: str, policy: HandlerPolicy) -> None:
        self.handler = handler
        self.policy = policy
        self.generation = 0
        self.channel: Channel | None = None
        self.cold = False
        """Whether the dispatch had to wait for an activation."""
        self.queue_seconds = 0.0
        self.activate_seconds = 0.0
        self.asked_at = time.monotonic()
        self.error: HostError | None = None
        self._outcome: asyncio.Future[None] | None = None
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
        """Send the dispatch to the worker; ``timeout`` is what it has left, in seconds.

        ``chain`` names the handlers that wait for it, if it is one of them that has made it.
        """
        assert self.channel is not None, "a lease that was not granted has no worker"
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
        """Let the handler's health hook run; raises the :class:`HostError` of what it raises, or of its end."""
        assert self.channel is not None, "a lease that was not granted has no worker"
        call = self.channel.check_health(request_id=request_id, timeout=timeout)
        self._calls.append(call)
        await call.read_response()

    def granted(self, worker: Worker) -> None:
        """Take the worker; called by the owner."""
        now = time.monotonic()
        self.generation = worker.generation
        self.channel = worker.channel
        ready_at = worker.ready_at
        if ready_at is not None and ready_at > self.asked_at:
            self.cold = True
            self.activate_seconds = ready_at - max(self.asked_at, worker.launched_at)
        self.queue_seconds = max(0.0, now - self.asked_at - self.activate_seconds)
        self._wake()

    def refused(self, error: HostError) -> None:
        """Take the refusal; called by the owner."""
        self.error = error
        self._wake()

    def ended(self, error: HostError) -> None:
        """End what is under way with ``error``; called by the owner."""
        self.error = error
        for call in self._calls:
            call.abort(error)

    def left(self) -> None:
        """Cancel what has not ended; called by the owner."""
        for call in self._calls:
            call.cancel()

    async def decided(self, patience: float | None) -> bool:
        """Wait until the lease is granted, at most ``patience`` seconds; return whether it is. Raises its refusal."""
        if self.channel is None and self.error is None:
            loop = asyncio.get_running_loop()
            self._outcome = loop.create_future()
            # A handle of its own, and only for who waits: asyncio.timeout costs a warm dispatch several percent.
            timer = loop.call_later(patience, self._wake) if patience is not None else None
            try:
                await self._outcome
            finally:
                if timer is not None:
                    timer.cancel()
        if self.channel is None and self.error is not None:
            raise self.error.copy()
        return self.channel is not None

    def _wake(self) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)
