"""One dispatch on its way to a worker and back, as the host sees it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

import msgspec

from handler_host.channel import frames
from handler_host.plugin.errors import DeadlineExceeded, HostError, ResponseTooLarge


class ChannelLimits(msgspec.Struct, frozen=True):
    """Bounds of a channel; sizes in bytes, times in seconds."""

    max_frame: int = frames.DEFAULT_MAX_FRAME
    window: int = 256 * 1024
    heartbeat_interval: float = 5.0
    hang_after: float = 30.0
    max_answer: int = 16 * 1024 * 1024


class CallTimeouts(NamedTuple):
    """Limits of one call in seconds; None means none.

    ``total`` bounds an answer that is no stream; a stream is bounded by
    ``first_byte`` up to its first piece, and by ``gap`` between two pieces.
    """

    total: float | None
    first_byte: float | None
    gap: float | None


class Link(Protocol):
    """What a call needs of its channel."""

    limits: ChannelLimits

    def send(self, frame: frames.HostFrame) -> None:
        """Write a frame."""

    def forget(self, number: int) -> None:
        """Drop a call and tell the worker."""

    def watch(self, due: float) -> None:
        """Let the calls that are due at this time of the event loop expire then."""


class Call:
    """One dispatch on its way: wait for :meth:`answer`, or take the :meth:`chunks` of a stream."""

    __slots__ = (
        "_channel",
        "_consumed",
        "_ended",
        "_error",
        "_left",
        "_limit",
        "_number",
        "_pieces",
        "_received",
        "_size",
        "_streamed",
        "_timeouts",
        "_waiter",
        "begun_at",
        "chain",
        "due",
        "request_id",
        "traceparent",
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
        """The handlers that wait for this one's answer, the first one first."""
        self.traceparent = traceparent
        """The span that it is a part of; what the handler dispatches for it is, too."""
        self.begun_at = time.monotonic()
        self._channel = channel
        self._number = number
        self._streamed = streamed
        self._timeouts = timeouts
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._consumed = 0
        self._received = 0
        self._ended = False
        self._error: HostError | None = None
        self._left = False
        self._waiter: asyncio.Future[None] | None = None
        self._limit = (0.0, "")
        self.due: float | None = None
        """When it expires, on the event loop's clock; None while nobody waits."""

    def remaining(self) -> float | None:
        """Return the seconds that what it dispatches may take; None if nothing bounds it, as in a stream under way."""
        total = self._timeouts.total
        if total is None or (self._streamed and self._received):
            return None
        return max(0.0, self.begun_at + total - time.monotonic())

    async def response(self) -> bytes:
        """Return the whole answer.

        Raises the :class:`HostError` that the handler answered with, ``HandlerCrashed``,
        ``DeadlineExceeded`` or ``ResponseTooLarge``. Being cancelled cancels the call.
        """
        if not self._ended:
            await self._wait(self._timeouts.total, "request_timeout")
        if self._error is not None:
            raise self._error.copy()
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    async def chunks(self) -> list[bytes]:
        """Return the next pieces of a stream, all that have come; none at its end.

        Asking for the next ones gives the worker credit for the last ones.
        """
        if self._consumed and self._consumed >= self._channel.limits.window // 2 and not self._ended:
            self._channel.send(frames.Credit(self._number, self._consumed))
            self._consumed = 0
        while not self._pieces:
            if self._error is not None:
                raise self._error.copy()
            if self._ended:
                return []
            if self._received:
                await self._wait(self._timeouts.gap, "gap_timeout")
            else:
                await self._wait(self._timeouts.first_byte, "first_byte_timeout")
        taken = list(self._pieces)
        self._pieces.clear()
        self._consumed += sum(map(len, taken))
        return taken

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the pieces of a stream, one by one."""
        while taken := await self.chunks():
            for chunk in taken:
                yield chunk

    @property
    def outcome(self) -> str | None:
        """``ok``, or the code of the error that ended it; None while it is under way, and when nobody waited for it."""
        if not self._ended or self._left:
            return None
        return "ok" if self._error is None else self._error.code

    def cancel(self) -> None:
        """Tell the worker that nobody waits any more; without effect on a call that has ended."""
        if not self._ended:
            self._ended = self._left = True
            self._channel.forget(self._number)

    def abort(self, error: HostError) -> None:
        """End the call with ``error``, for the worker and for the consumer."""
        if not self._ended:
            self._channel.forget(self._number)
            self.ended(error)

    def chunk(self, data: bytes) -> None:
        """Take a piece or fragment; called by the channel."""
        self._received += 1
        self._pieces.append(data)
        if self._streamed:
            self._wake()
            return
        self._size += len(data)
        limit = self._channel.limits.max_answer
        if self._size > limit:
            self._pieces.clear()
            self.abort(ResponseTooLarge(f"the handler's answer is longer than {limit} bytes (server.max_answer)"))
        else:
            # Nobody reads fragments before the last one: what bounds them is the answer's limit.
            self._channel.send(frames.Credit(self._number, len(data)))

    def ended(self, error: HostError | None, data: bytes | None = None) -> None:
        """Take the end; called by the channel."""
        if data is not None:
            self._pieces.append(data)
        self._ended = True
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, limit: float | None, name: str) -> None:
        """Wait for the channel to bring something, at most ``limit`` seconds."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        if limit is not None:
            self.due, self._limit = loop.time() + limit, (limit, name)
            self._channel.watch(self.due)
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            self._waiter = self.due = None

    def expire(self) -> None:
        """End the call, as its time has run out; called by the channel."""
        limit, name = self._limit
        what = "no answer" if not self._received else "nothing more of the answer"
        self.abort(DeadlineExceeded(f"{what} from the handler within {limit:g} s ({name})"))
