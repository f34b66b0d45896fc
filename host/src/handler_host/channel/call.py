"""One call of an operation: a request from the host to a worker, and its response.

A client's disconnect ends a call by one of two routes, and both send the worker a ``Cancel`` frame. While the
client's task waits for a frame it is cancelled (:meth:`Call.read_response`, :meth:`Call.read_chunks`). While it writes,
the write fails, and the end of the lease cancels the call (:meth:`Call.cancel`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from handler_host.channel import frames
from handler_host.channel.timeouts import CallTimeouts
from handler_host.plugin.errors import DeadlineExceeded, HostError, ResponseTooLarge


class ChannelLimits(msgspec.Struct, frozen=True):
    """Bounds of a channel; sizes in bytes, times in seconds."""

    max_frame: int = frames.DEFAULT_MAX_FRAME
    window: int = 256 * 1024
    heartbeat_interval: float = 5.0
    hang_after: float = 30.0
    max_answer: int = 16 * 1024 * 1024


class Link(Protocol):
    """Part of the channel that a call uses."""

    limits: ChannelLimits

    def send(self, frame: frames.HostFrame) -> None:
        """Write a frame."""

    def drop_call(self, number: int) -> None:
        """Remove a call and cancel it at the worker."""

    def schedule_expiry(self, expires_at: float) -> None:
        """Expire the calls that are due at this time of the event loop."""


class Call:
    """One dispatch in flight: await :meth:`read_response`, or :meth:`read_chunks` for a stream."""

    __slots__ = (
        "_cancelled",
        "_channel",
        "_chunks",
        "_consumed",
        "_ended",
        "_error",
        "_number",
        "_outstanding",
        "_received",
        "_size",
        "_streamed",
        "_timeouts",
        "_wait_limit",
        "_waiter",
        "chain",
        "expires_at",
        "request_id",
        "started_at",
        "traceparent",
        "works_for",
    )

    def __init__(
        self,
        channel: Link,
        number: int,
        streamed: bool,
        timeouts: CallTimeouts,
        request_id: str = "",
        chain: tuple[str, ...] = (),
        traceparent: str | None = None,
    ) -> None:
        self.request_id = request_id
        self.chain = chain
        """The handlers that wait for the response, outermost first."""
        self.traceparent = traceparent
        """The span of this dispatch; the handler's own dispatches become parts of it."""
        self.works_for: str | None = None
        """Name of the consumer that the handler's own dispatches count to."""
        self.started_at = time.monotonic()
        self._channel = channel
        self._number = number
        self._streamed = streamed
        self._timeouts = timeouts
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._consumed = 0
        self._received = 0
        self._outstanding = 0
        """Bytes of a stream that have arrived and are not credited."""
        self._ended = False
        self._error: HostError | None = None
        self._cancelled = False
        self._waiter: asyncio.Future[None] | None = None
        self._wait_limit = (0.0, "")
        """Seconds of the current wait, and the setting that they come from."""
        self.expires_at: float | None = None
        """Time of the event loop at which the current wait expires; None while nothing waits."""

    def remaining(self) -> float | None:
        """Return the seconds that the handler's own dispatches may take; None if unlimited, as in a running stream."""
        total = self._timeouts.total
        if total is None or (self._streamed and self._received):
            return None
        return max(0.0, self.started_at + total - time.monotonic())

    async def read_response(self) -> bytes:
        """Return the whole response.

        Raises the :class:`HostError` of the handler, ``HandlerCrashed``, ``DeadlineExceeded`` or
        ``ResponseTooLarge``. Cancelling this coroutine cancels the call.
        """
        if not self._ended:
            await self._wait(self._timeouts.total, "request_timeout")
        if self._error is not None:
            raise self._error.copy()
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    async def read_chunks(self) -> list[bytes]:
        """Return all chunks of a stream that have arrived, at least one; an empty list at its end.

        Each call credits the worker with the chunks that the previous one returned. Raises as
        :meth:`read_response`.
        """
        if self._consumed and self._consumed >= self._channel.limits.window // 2 and not self._ended:
            self._channel.send(frames.Credit(self._number, self._consumed))
            self._outstanding -= self._consumed
            self._consumed = 0
        while not self._chunks:
            if self._error is not None:
                raise self._error.copy()
            if self._ended:
                return []
            if self._received:
                await self._wait(self._timeouts.gap, "gap_timeout")
            else:
                await self._wait(self._timeouts.first_byte, "first_byte_timeout")
        chunks = list(self._chunks)
        self._chunks.clear()
        self._consumed += sum(map(len, chunks))
        return chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the chunks of a stream, one by one."""
        while chunks := await self.read_chunks():
            for chunk in chunks:
                yield chunk

    @property
    def outcome(self) -> str | None:
        """``ok``, or the code of the error that ended the call; None while it is in flight and if it was cancelled."""
        if not self._ended or self._cancelled:
            return None
        return "ok" if self._error is None else self._error.code

    @property
    def error(self) -> HostError | None:
        """The error that ended the call, not to be raised."""
        return self._error

    def cancel(self) -> None:
        """Cancel the call at the worker; has no effect on a call that has ended."""
        if not self._ended:
            self._ended = self._cancelled = True
            self._channel.drop_call(self._number)

    def abort(self, error: HostError) -> None:
        """End the call with ``error``, at the worker and for its reader."""
        if not self._ended:
            self._channel.drop_call(self._number)
            self.finish(error)

    def add_chunk(self, data: bytes) -> None:
        """Accept a chunk of a stream or a fragment of a response (called by the channel).

        An empty chunk of a stream is a sign of life of the provider, and no part of the response.

        Raises ``ProtocolError`` for a worker that sends more than its window: it would fill the host's memory.
        """
        if self._streamed:
            self._outstanding += len(data) or 1
            limits = self._channel.limits
            if self._outstanding > limits.window + limits.max_frame:
                raise frames.ProtocolError(f"{self._outstanding} bytes in a window of {limits.window}")
            if not data:
                self._restart_wait()
                return
        self._received += 1
        self._chunks.append(data)
        if self._streamed:
            if len(self._chunks) == 1:  # the reader takes all chunks at once, and waits only if there are none
                self._wake()
            return
        self._size += len(data)
        limit = self._channel.limits.max_answer
        if self._size > limit:
            self._chunks.clear()
            self.abort(
                ResponseTooLarge(f"the handler's response is longer than {limit} bytes; raise server.max_answer")
            )
        else:
            # Credited at once, as fragments are read only when the last one is there: `max_answer` bounds them.
            self._channel.send(frames.Credit(self._number, len(data)))

    def finish(self, error: HostError | None, data: bytes | None = None) -> None:
        """End the call with ``error``, or with the last fragment ``data`` (called by the channel)."""
        if data is not None:
            self._chunks.append(data)
        self._ended = True
        self._error = error
        self._wake()

    def expire(self) -> None:
        """End the call because its current time limit has passed (called by the channel)."""
        limit, name = self._wait_limit
        what = "no response" if not self._received else "no further chunk"
        self.abort(DeadlineExceeded(f"{what} from the handler within {limit:g} s ({name})"))

    def _restart_wait(self) -> None:
        if self.expires_at is not None:
            self.expires_at = asyncio.get_running_loop().time() + self._wait_limit[0]

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, limit: float | None, name: str) -> None:
        """Wait for the next frame of this call, at most ``limit`` seconds; ``name`` is the setting of that limit."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        if limit is not None:
            self.expires_at, self._wait_limit = loop.time() + limit, (limit, name)
            self._channel.schedule_expiry(self.expires_at)
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            self._waiter = self.expires_at = None
