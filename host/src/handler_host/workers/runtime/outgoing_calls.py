"""Handler calls, worker side: sends what the handler dispatches to other handlers.

A dispatch made while an operation runs belongs to that operation's call, in each of its tasks and threads (context
variable ``current``). It ends with that call at the latest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Container
from contextvars import ContextVar

from handler_host.channel import frames
from handler_host.plugin.errors import BY_CODE, BodyTooLarge, HandlerFault, HostError

WINDOW_BYTES = 256 * 1024
"""Bytes of a response that may be in flight, as for a client."""

FRAME_OVERHEAD_BYTES = 1024
"""Bytes for the fields of a frame beside the body; names of handlers and operations are short."""

current: ContextVar[int | None] = ContextVar("call", default=None)
"""Number of the call that runs in this context."""


class _PendingCall:
    """One handler call in flight, and the chunks of its response that have not been read."""

    __slots__ = ("chunks", "error", "has_ended", "parent", "streamed", "waiter")

    def __init__(self, parent: int | None, streamed: bool) -> None:
        self.parent = parent
        self.streamed = streamed
        self.chunks: deque[bytes] = deque()
        self.has_ended = False
        self.error: HostError | None = None
        self.waiter: asyncio.Future[None] | None = None

    def end(self, error: HostError | None) -> None:
        """Note that no further chunk comes."""
        self.has_ended, self.error = True, error
        self.wake()

    def wake(self) -> None:
        """Wake the waiter."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for a chunk or the end."""
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter


class OutgoingCalls:
    """Sender of the handler calls of one worker; ``calls`` are the numbers of the calls that it runs."""

    def __init__(self, send: Callable[[frames.WorkerFrame], None], calls: Container[int]) -> None:
        self.loop = asyncio.get_running_loop()
        self.max_frame = frames.DEFAULT_MAX_FRAME
        self.closed: str | None = "dispatch() does not work in activate: an activation must not wait for another one"
        """Reason for which handler calls are refused; None if they are allowed."""
        self._send = send
        self._calls = calls
        self._pending: dict[int, _PendingCall] = {}
        self._number = 0

    async def run(self, handler: str, operation: str, body: bytes, timeout: float | None, fallback: bool) -> bytes:
        """Return the whole response of another handler as JSON; raises its :class:`HostError`."""
        number, call = self._start(handler, operation, body, timeout, fallback, streamed=False)
        try:
            while not call.has_ended:
                await call.wait()
        finally:
            self._forget(number)
        if call.error is not None:
            raise call.error
        return b"".join(call.chunks)

    async def stream(
        self, handler: str, operation: str, body: bytes, timeout: float | None, fallback: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield the chunks of another handler's response as JSON; raises its :class:`HostError`."""
        number, call = self._start(handler, operation, body, timeout, fallback, streamed=True)
        unacknowledged_bytes = 0
        try:
            while True:
                while call.chunks:
                    chunk = call.chunks.popleft()
                    unacknowledged_bytes += len(chunk)
                    yield chunk
                if call.has_ended:
                    break
                if unacknowledged_bytes >= WINDOW_BYTES // 2:
                    self._send(frames.Credit(number, unacknowledged_bytes))
                    unacknowledged_bytes = 0
                await call.wait()
        finally:
            self._forget(number)
        if call.error is not None:
            raise call.error

    def chunk(self, frame: frames.Chunk) -> None:
        """Add a chunk of a response."""
        call = self._pending.get(frame.number)
        if call is not None:
            call.chunks.append(frame.data)
            if call.streamed:
                call.wake()
            else:
                self._send(frames.Credit(frame.number, len(frame.data)))

    def end(self, frame: frames.End) -> None:
        """End a handler call."""
        call = self._pending.pop(frame.number, None)
        if call is not None:
            call.end(None)

    def error(self, frame: frames.Error) -> None:
        """End a handler call with an error."""
        call = self._pending.pop(frame.number, None)
        if call is not None:
            error_class = BY_CODE.get(frame.code, HandlerFault)
            call.end(error_class(frame.message, param=frame.param, retry_after=frame.retry_after))

    def call_ended(self, parent: int) -> None:
        """End the handler calls of a call that has ended without waiting for them."""
        if self._pending:
            self._end_all("the call that dispatched has ended before the response arrived", parent)

    def close(self, reason: str) -> None:
        """End all handler calls, and refuse further ones."""
        self.closed = reason
        self._end_all(reason, None)

    def _start(
        self, handler: str, operation: str, body: bytes, timeout: float | None, fallback: bool, *, streamed: bool
    ) -> tuple[int, _PendingCall]:
        if self.closed is not None:
            raise HandlerFault(self.closed)
        parent = current.get()
        if parent is not None and parent not in self._calls:
            raise HandlerFault(f"the call that dispatches to {handler} has ended; await its tasks before it returns")
        limit = self.max_frame - FRAME_OVERHEAD_BYTES
        if len(body) > limit:
            raise BodyTooLarge(
                f"the request to {handler} has {len(body)} bytes; at most {limit} are allowed (workers.max_frame)"
            )
        self._number = number = self._number + 1
        call = self._pending[number] = _PendingCall(parent, streamed)
        self._send(frames.Dispatch(number, parent, handler, operation, body, streamed, WINDOW_BYTES, timeout, fallback))
        return number, call

    def _forget(self, number: int) -> None:
        if self._pending.pop(number, None) is not None:
            self._send(frames.Cancel(number))

    def _end_all(self, reason: str, parent: int | None) -> None:
        for number, call in list(self._pending.items()):
            if parent is None or call.parent == parent:
                self._forget(number)
                call.end(HandlerFault(reason))
