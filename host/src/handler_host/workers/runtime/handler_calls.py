"""What a handler dispatches to other handlers: the worker's end of it.

A dispatch that is made while an operation runs belongs to that operation's call, in whichever
task or thread of it: the context variable ``current`` tells. It ends with that call at the latest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Container
from contextvars import ContextVar

from handler_host.channel import frames
from handler_host.plugin.errors import BY_CODE, BodyTooLarge, HandlerFault, HostError

WINDOW = 256 * 1024
"""Bytes of an answer that may be on their way, as for a client."""

FRAME_HEAD = 1024
"""Room for what a frame has beside the body; names of handlers and operations are short."""

current: ContextVar[int | None] = ContextVar("call", default=None)
"""The number of the call that runs in this context."""


class _PendingCall:
    """One dispatch under way, and what of its answer was not taken yet."""

    __slots__ = ("chunks", "ended", "error", "parent", "streamed", "waiter")

    def __init__(self, parent: int | None, streamed: bool) -> None:
        self.parent = parent
        self.streamed = streamed
        self.chunks: deque[bytes] = deque()
        self.ended = False
        self.error: HostError | None = None
        self.waiter: asyncio.Future[None] | None = None

    def end(self, error: HostError | None) -> None:
        """Note that nothing more comes."""
        self.ended, self.error = True, error
        self.wake()

    def wake(self) -> None:
        """Let who waits look."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def change(self) -> None:
        """Wait until something has come."""
        self.waiter = asyncio.get_running_loop().create_future()
        await self.waiter


class HandlerCalls:
    """Makes the dispatches of one worker: ``calls`` are the numbers of the calls that run in it."""

    def __init__(self, send: Callable[[frames.WorkerFrame], None], calls: Container[int]) -> None:
        self.loop = asyncio.get_running_loop()
        self.max_frame = frames.DEFAULT_MAX_FRAME
        self.closed: str | None = "dispatch() works from the end of activate on: nobody may wait for an activation here"
        """Why nothing is dispatched; None when it is."""
        self._send = send
        self._calls = calls
        self._asked: dict[int, _PendingCall] = {}
        self._number = 0

    async def ask(self, handler: str, operation: str, body: bytes, timeout: float | None) -> bytes:
        """Return the whole answer of another handler as JSON; raises the :class:`HostError` that it ends with."""
        number, asked = self._begin(handler, operation, body, timeout, streamed=False)
        try:
            while not asked.ended:
                await asked.change()
        finally:
            self._detach_after_fork(number)
        if asked.error is not None:
            raise asked.error
        return b"".join(asked.chunks)

    async def stream(
        self, handler: str, operation: str, body: bytes, timeout: float | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of another handler's answer as JSON; raises the :class:`HostError` that it ends with."""
        number, asked = self._begin(handler, operation, body, timeout, streamed=True)
        taken = 0
        try:
            while True:
                while asked.chunks:
                    chunk = asked.chunks.popleft()
                    taken += len(chunk)
                    yield chunk
                if asked.ended:
                    break
                if taken >= WINDOW // 2:
                    self._send(frames.Credit(number, taken))
                    taken = 0
                await asked.change()
        finally:
            self._detach_after_fork(number)
        if asked.error is not None:
            raise asked.error

    def chunk(self, frame: frames.Chunk) -> None:
        """Take a piece of an answer."""
        asked = self._asked.get(frame.number)
        if asked is not None:
            asked.chunks.append(frame.data)
            if asked.streamed:
                asked.wake()
            else:
                self._send(frames.Credit(frame.number, len(frame.data)))

    def end(self, frame: frames.End) -> None:
        """Take the end of an answer."""
        asked = self._asked.pop(frame.number, None)
        if asked is not None:
            asked.end(None)

    def error(self, frame: frames.Error) -> None:
        """Take a refusal or failure."""
        asked = self._asked.pop(frame.number, None)
        if asked is not None:
            kind = BY_CODE.get(frame.code, HandlerFault)
            asked.end(kind(frame.message, param=frame.param, retry_after=frame.retry_after))

    def call_ended(self, parent: int) -> None:
        """End what a call has dispatched and not waited for: nothing of it may outlast the call."""
        if self._asked:
            self._end_all("the call that dispatched has ended before it had the answer", parent)

    def close(self, reason: str) -> None:
        """End all, and refuse what is still to come."""
        self.closed = reason
        self._end_all(reason, None)

    def _begin(
        self, handler: str, operation: str, body: bytes, timeout: float | None, *, streamed: bool
    ) -> tuple[int, _PendingCall]:
        if self.closed is not None:
            raise HandlerFault(self.closed)
        parent = current.get()
        if parent is not None and parent not in self._calls:
            raise HandlerFault(f"the call that dispatches to {handler} has ended; let it wait for what it began")
        limit = self.max_frame - FRAME_HEAD
        if len(body) > limit:
            raise BodyTooLarge(
                f"the request to {handler} has {len(body)} bytes, where at most {limit} are allowed (workers.max_frame)"
            )
        self._number = number = self._number + 1
        asked = self._asked[number] = _PendingCall(parent, streamed)
        self._send(frames.Dispatch(number, parent, handler, operation, body, streamed, WINDOW, timeout))
        return number, asked

    def _detach_after_fork(self, number: int) -> None:
        if self._asked.pop(number, None) is not None:
            self._send(frames.Cancel(number))

    def _end_all(self, reason: str, parent: int | None) -> None:
        for number, asked in list(self._asked.items()):
            if parent is None or asked.parent == parent:
                self._detach_after_fork(number)
                asked.end(HandlerFault(reason))
