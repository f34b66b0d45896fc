"""Handler calls, host side: runs what the handler of one worker dispatches to other handlers.

A handler call belongs to the call that made it: it has no more time than that one has left and ends with it. The
response goes back to the worker with the flow control of all streams.

A handler waits for the response of its call. So the call must not come back to a handler that waits already: that one
might have no free place until it gets the response, and would call again and again if it had one. Each call carries
the chain of the handlers that wait for it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from typing import Protocol

from handler_host.channel import frames
from handler_host.channel.call import Call
from handler_host.dispatch.dispatcher import Dispatcher
from handler_host.dispatch.request import Caller, Request
from handler_host.plugin.errors import DispatchCycle, HandlerFault, HostError, QueueFull

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 256
"""Most dispatches to other handlers that one worker may have in flight."""
MAX_OF_ONE_CALL = 64
"""Most of them that one call may have: a client must not take the places of all others."""


class FrameSink(Protocol):
    """Writer of frames to the worker."""

    def send(self, frame: frames.HostFrame) -> None:
        """Write a frame."""


class _HandlerCall:
    """One handler call in flight: its task, and the bytes of the response that may still be sent."""

    __slots__ = ("credit", "parent", "task", "waiter")

    def __init__(self, parent: int | None, credit: int) -> None:
        self.parent = parent
        self.credit = credit
        self.waiter: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None


class HandlerCalls:
    """Runner of the handler calls of one worker; ``caller`` is its handler."""

    def __init__(self, dispatcher: Dispatcher, caller: str, channel: FrameSink) -> None:
        self._dispatcher = dispatcher
        self._caller = caller
        self._channel = channel
        self._in_flight: dict[int, _HandlerCall] = {}
        self._own_ids = itertools.count(1)

    def dispatch(self, frame: frames.Dispatch, parent: Call | None) -> None:
        """Start a handler call; ``parent`` is the call that made it."""
        if frame.parent is not None and parent is None:
            text = f"the call that dispatched to {frame.handler} has ended"
            self._channel.send(frames.Error(frame.number, HandlerFault.code, text))
            return
        if frame.number in self._in_flight:
            raise frames.ProtocolError(f"two dispatches have the number {frame.number}")
        if refusal := self._find_excess(frame):
            text = f"{refusal} dispatches to other handlers in flight"
            self._channel.send(frames.Error(frame.number, QueueFull.code, text, retry_after=1.0))
            return
        call = self._in_flight[frame.number] = _HandlerCall(frame.parent, frame.window)
        work = self._run(frame, parent, call)
        call.task = asyncio.create_task(work, name=f"dispatch from {self._caller} to {frame.handler}")
        # Not in the task itself: one that is cancelled before its first step never runs.
        call.task.add_done_callback(lambda _: self._in_flight.pop(frame.number, None))

    def _find_excess(self, frame: frames.Dispatch) -> str | None:
        """Return which limit another dispatch would exceed, as the start of its message, or None."""
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            return f"{self._caller} has {MAX_IN_FLIGHT}"
        if frame.parent is not None:
            siblings = sum(call.parent == frame.parent for call in self._in_flight.values())
            if siblings >= MAX_OF_ONE_CALL:
                return f"a call of {self._caller} has {MAX_OF_ONE_CALL}"
        return None

    def cancel(self, number: int) -> None:
        """Cancel a handler call that the worker no longer waits for."""
        call = self._in_flight.get(number)
        if call is not None and call.task is not None:
            call.task.cancel()

    def credit(self, number: int, amount: int) -> None:
        """Allow so many more bytes of a response."""
        call = self._in_flight.get(number)
        if call is not None:
            call.credit += amount
            if call.waiter is not None and not call.waiter.done():
                call.waiter.set_result(None)

    def end_children(self, number: int) -> None:
        """Cancel the handler calls of a call that has ended."""
        for own, call in list(self._in_flight.items()):
            if call.parent == number:
                self.cancel(own)

    def end(self) -> None:
        """Cancel all."""
        for number in list(self._in_flight):
            self.cancel(number)

    async def _run(self, frame: frames.Dispatch, parent: Call | None, call: _HandlerCall) -> None:
        """Run a handler call to its end; every outcome becomes one frame."""
        try:
            await self._relay(self._request(frame, parent), frame, call)
        except HostError as error:
            text = error.message if isinstance(error, DispatchCycle) else f"{frame.handler}: {error.message}"
            self._channel.send(
                frames.Error(frame.number, error.code, text, error.param, error.retry_after, error.cause)
            )
        except Exception:
            log.exception("defect in the host: a dispatch from %s to %s failed", self._caller, frame.handler)
            text = f"{frame.handler}: defect in the host; see the log"
            self._channel.send(frames.Error(frame.number, HandlerFault.code, text))

    def _request(self, frame: frames.Dispatch, parent: Call | None) -> Request:
        deadline = self._dispatcher.new_deadline()
        remaining_s = parent.remaining() if parent is not None else None
        if frame.timeout is not None or remaining_s is not None:
            # NaN and infinity are numbers of msgpack, but not times.
            bounds = [bound for bound in (frame.timeout, remaining_s) if bound is not None and math.isfinite(bound)]
            deadline = time.monotonic() + min(bounds) if bounds else deadline
        return Request(
            handler=frame.handler,
            operation=frame.operation,
            body=frame.body,
            caller=Caller(
                request_id=parent.request_id if parent is not None else f"{self._caller}-{next(self._own_ids)}",
                traceparent=parent.traceparent if parent is not None else None,
                works_for=parent.works_for if parent is not None else None,
            ),
            deadline=deadline,
            fallback=frame.fallback,
            in_progress=parent is not None,
            chain=(*parent.chain, self._caller) if parent is not None else (self._caller,),
        )

    async def _relay(self, request: Request, frame: frames.Dispatch, call: _HandlerCall) -> None:
        if frame.streamed:
            async with self._dispatcher.stream(request) as stream:
                chunks = stream.chunks
                while chunks:
                    for chunk in chunks:
                        await self._send(frame.number, chunk, call)
                    chunks = await stream.read_chunks()
        else:
            response = await self._dispatcher.run(request)
            for start in range(0, len(response), frames.FRAGMENT):
                await self._send(frame.number, response[start : start + frames.FRAGMENT], call)
        self._channel.send(frames.End(frame.number, None))

    async def _send(self, number: int, data: bytes, call: _HandlerCall) -> None:
        while call.credit <= 0:
            call.waiter = asyncio.get_running_loop().create_future()
            await call.waiter
        call.credit -= len(data)
        self._channel.send(frames.Chunk(number, data))
