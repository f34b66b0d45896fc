"""What the worker of one handler dispatches to other handlers: the host's end of it.

Each such dispatch takes a lease as a client's does, and its answer is sent on to the worker
that asked, with the flow control of all streams. It belongs to the call that has made it:
it has no more time than that one has left, and ends with it, however that one ends.

A handler waits for the answer of what it has dispatched. So it must not come back to one
that waits already: that one might have no place free before this one is answered, and
would ask again and again if it had. The chain of those who wait goes along with each call.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from handler_host.channel import frames
from handler_host.channel.call import Call
from handler_host.lifecycle.lease import Lease
from handler_host.plugin.errors import DispatchCycle, HandlerFault, HostError

log = logging.getLogger(__name__)


class LeaseOf(Protocol):
    """Gives a lease on a handler's worker (``Supervisor.lease``)."""

    def __call__(
        self, name: str, operation: str | None = None, patience: float | None = None, *, admitted: bool = False
    ) -> AbstractAsyncContextManager[Lease]:
        """Return what gives it on entry."""


class Wire(Protocol):
    """Where frames for the worker go."""

    def send(self, frame: frames.HostFrame) -> None:
        """Write a frame."""


class _Nested:
    """One dispatch under way: its task, and what may still be sent of its answer."""

    __slots__ = ("credit", "parent", "task", "waiter")

    def __init__(self, parent: int | None, credit: int) -> None:
        self.parent = parent
        self.credit = credit
        self.waiter: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None


class NestedCalls:
    """Runs the dispatches of one worker.

    ``caller`` is its handler, and ``timeout`` the seconds of a dispatch that no call bounds.
    """

    def __init__(self, caller: str, channel: Wire, lease: LeaseOf, timeout: float) -> None:
        self._caller = caller
        self._channel = channel
        self._lease = lease
        self._timeout = timeout
        self._under_way: dict[int, _Nested] = {}
        self._own = itertools.count(1)

    def dispatch(self, frame: frames.Dispatch, parent: Call | None) -> None:
        """Begin a dispatch; ``parent`` is the call that has made it."""
        if frame.parent is not None and parent is None:
            text = f"what dispatched to {frame.handler} has ended"
            self._channel.send(frames.Error(frame.number, HandlerFault.code, text))
            return
        nested = self._under_way[frame.number] = _Nested(frame.parent, frame.window)
        work = self._run(frame, parent, nested)
        nested.task = asyncio.create_task(work, name=f"dispatch from {self._caller} to {frame.handler}")
        # Not in the task itself: one that is cancelled before its first step never runs.
        nested.task.add_done_callback(lambda _: self._under_way.pop(frame.number, None))

    def cancel(self, number: int) -> None:
        """End a dispatch that nobody waits for any more."""
        nested = self._under_way.get(number)
        if nested is not None and nested.task is not None:
            nested.task.cancel()

    def credit(self, number: int, amount: int) -> None:
        """Note that the worker has taken so many bytes of an answer."""
        nested = self._under_way.get(number)
        if nested is not None:
            nested.credit += amount
            if nested.waiter is not None and not nested.waiter.done():
                nested.waiter.set_result(None)

    def end_children(self, number: int) -> None:
        """End what a call has dispatched, as the call has ended."""
        for own, nested in list(self._under_way.items()):
            if nested.parent == number:
                self.cancel(own)

    def end(self) -> None:
        """End all."""
        for number in list(self._under_way):
            self.cancel(number)

    async def _run(self, frame: frames.Dispatch, parent: Call | None, nested: _Nested) -> None:
        """Run one dispatch to its end; whatever it ends with becomes one frame."""
        try:
            await self._relay(frame, parent, nested)
        except HostError as error:
            text = f"{frame.handler}: {error.message}"
            if isinstance(error, DispatchCycle):
                text = error.message
            self._channel.send(frames.Error(frame.number, error.code, text, error.param, error.retry_after))
        except Exception:
            log.exception("a defect of the host: a dispatch from %s to %s failed", self._caller, frame.handler)
            text = f"{frame.handler}: a defect of the host; see the log"
            self._channel.send(frames.Error(frame.number, HandlerFault.code, text))

    async def _relay(self, frame: frames.Dispatch, parent: Call | None, nested: _Nested) -> None:
        chain = (*parent.chain, self._caller) if parent is not None else (self._caller,)
        if frame.handler in chain:
            raise DispatchCycle(
                f"{self._caller} must not dispatch to {frame.handler}, which waits for it: "
                f"{' → '.join((*chain, frame.handler))}"
            )
        bounds = (frame.timeout, parent.remaining() if parent is not None else None)
        seconds = min((bound for bound in bounds if bound is not None), default=self._timeout)
        deadline = time.monotonic() + seconds
        async with self._lease(frame.handler, frame.operation, seconds, admitted=parent is not None) as lease:
            call = lease.call(
                frame.operation,
                frame.body,
                streamed=frame.streamed,
                request_id=parent.request_id if parent is not None else f"{self._caller}-{next(self._own)}",
                timeout=max(0.0, deadline - time.monotonic()),
                traceparent=parent.traceparent if parent is not None else None,
                chain=chain,
            )
            if frame.streamed:
                while chunks := await call.read_chunks():
                    for chunk in chunks:
                        await self._send(frame.number, chunk, nested)
            else:
                response = await call.read_response()
                for start in range(0, len(response), frames.FRAGMENT):
                    await self._send(frame.number, response[start : start + frames.FRAGMENT], nested)
        self._channel.send(frames.End(frame.number, None))

    async def _send(self, number: int, data: bytes, nested: _Nested) -> None:
        while nested.credit <= 0:
            nested.waiter = asyncio.get_running_loop().create_future()
            await nested.waiter
        nested.credit -= len(data)
        self._channel.send(frames.Chunk(number, data))
