"""The host's end of the channel to one worker: many calls at a time over one socket.

One asyncio protocol reads and writes the frames of ``handler_host.channel.frames``. A call costs no
task and no queue: its consumer waits on one future at most. What is buffered for a
slow consumer is bounded by the call's window, so that it stops its own stream and
no other.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import msgspec

from handler_host._internal.log import mask_secrets
from handler_host.channel import frames
from handler_host.channel.call import Call, CallTimeouts, ChannelLimits
from handler_host.plugin.errors import (
    BY_CODE,
    ActivationFailed,
    ActivationTimeout,
    HandlerCrashed,
    HandlerFault,
    HandlerOutOfMemory,
    HostError,
)


class Closed(msgspec.Struct, frozen=True):
    """Why a channel has closed."""

    text: str
    broken: bool = False
    """The worker did not go by itself: it hangs, or speaks no protocol."""
    hang: bool = False


class Nested(Protocol):
    """Runner of the dispatches that a worker makes itself (``handler_host.dispatch.handler_calls``)."""

    def dispatch(self, frame: frames.Dispatch, parent: Call | None) -> None:
        """Begin one; ``parent`` is the call that it is made for."""

    def cancel(self, number: int) -> None:
        """End one that nobody waits for any more."""

    def credit(self, number: int, amount: int) -> None:
        """Note that so many bytes of an answer were taken."""

    def parent_ended(self, number: int) -> None:
        """End what a call has dispatched, as the call has ended."""

    def end(self) -> None:
        """End all; nobody is told any more."""


class Channel(asyncio.Protocol):
    """The connection to one worker, from its start to its end.

    ``closed`` is set once, when no frame can come any more. Calls that are under
    way then wait for :meth:`fail`, so that they can be told how the worker ended.
    ``on_exhausted`` is called when the worker tells that it could get no more memory.
    ``nest`` makes what runs the dispatches of the worker's own, when the first one comes;
    without it they are refused.
    """

    def __init__(
        self,
        handler: str,
        generation: int,
        limits: ChannelLimits,
        on_log: Callable[[frames.Log], None],
        on_exhausted: Callable[[], None] | None = None,
        nest: Callable[[Channel], Nested] | None = None,
    ) -> None:
        self.limits = limits
        self.running = 0
        """Dispatches that the worker has, by its own last count."""
        self.exhausted = False
        """The worker has told that it could get no more memory."""
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[Closed] = self._loop.create_future()
        self._handler = handler
        self._generation = generation
        self._on_log = on_log
        self._on_exhausted = on_exhausted or (lambda: None)
        self._decoder = frames.worker_frames(limits.max_frame)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._calls: dict[int, Call] = {}
        self._number = 0
        self._nest = nest
        self._nested: Nested | None = None
        self._failure: HostError | None = None
        self._started: asyncio.Future[frames.Ready] | None = None
        self._silent = 0
        """Heartbeats in a row that nothing has answered."""
        self._sequence = 0
        self._heartbeat: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls,
        sock: socket.socket,
        *,
        handler: str,
        generation: int,
        limits: ChannelLimits,
        on_log: Callable[[frames.Log], None],
        on_exhausted: Callable[[], None] | None = None,
        nest: Callable[[Channel], Nested] | None = None,
    ) -> Channel:
        """Return the channel over ``sock``, which it owns from now on."""
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(
            lambda: cls(handler, generation, limits, on_log, on_exhausted, nest), sock=sock
        )
        return channel

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return len(self._calls)

    async def start(self, spec: frames.WorkerSpec, timeout: float) -> frames.Ready:
        """Let the worker load its handler; return what it tells when it is ready.

        Raises ``ActivationFailed`` with the handler's reason, ``ActivationTimeout``, or
        ``HandlerCrashed`` if the worker ends before it is ready.
        """
        self._started = self._loop.create_future()
        self.send(frames.Start(frames.PROTOCOL_VERSION, self._generation, spec))
        if self.closed.done():
            self._started.cancel()
            raise HandlerCrashed(self.closed.result().text)
        try:
            async with asyncio.timeout(timeout):
                ready = await self._started
        except TimeoutError:
            raise ActivationTimeout(
                f"{self._handler} was not ready within {timeout:g} s (activate_timeout)", retry_after=timeout
            ) from None
        if ready.protocol != frames.PROTOCOL_VERSION:
            raise ActivationFailed(
                f"the worker of {self._handler} speaks protocol {ready.protocol}, the host {frames.PROTOCOL_VERSION}: "
                "install the host's own version of handler-host in the worker's environment"
            )
        self._silent = 0
        self._beat()
        return ready

    def call(
        self,
        operation: str,
        body: bytes,
        *,
        streamed: bool,
        request_id: str,
        timeouts: CallTimeouts,
        chain: tuple[str, ...] = (),
        traceparent: str | None = None,
    ) -> Call:
        """Send a dispatch; the answer is had from the :class:`Call`.

        ``chain`` names the handlers that wait for it, if it is one of them that has made it.
        """
        self._number = number = self._number + 1
        call = Call(self, number, streamed, timeouts, request_id, chain, traceparent)
        if self._failure is not None:
            call.ended(self._failure)
            return call
        self._calls[number] = call
        timeout = timeouts.first_byte if streamed else timeouts.total
        window = self.limits.window
        self.send(frames.Call(number, operation, body, streamed, window, timeout, request_id, traceparent))
        return call

    def health(self, *, request_id: str, timeout: float) -> Call:
        """Ask the handler for its health; the answer is empty, or the error that the hook has raised."""
        self._number = number = self._number + 1
        call = Call(self, number, False, CallTimeouts(total=timeout, first_byte=None, gap=None))
        if self._failure is not None:
            call.ended(self._failure)
            return call
        self._calls[number] = call
        self.send(frames.Health(number, request_id))
        return call

    def stop(self, grace: float) -> None:
        """Ask the worker to deactivate and exit within ``grace`` seconds."""
        self.send(frames.Stop(grace))

    def fail(self, error: HostError) -> None:
        """End all calls, and those that are still to come, with ``error``."""
        self._failure = error
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.ended(error)

    def close(self) -> None:
        """Close the socket; calls that are left end with ``HandlerCrashed``."""
        self._end(Closed("closed by the host"))
        if self._failure is None:
            self.fail(HandlerCrashed(f"the worker of {self._handler} is gone"))

    def forget(self, number: int) -> None:
        """Drop a call and tell the worker; what still comes of it is ignored."""
        if self._calls.pop(number, None) is not None:
            self.send(frames.Cancel(number))
            self._end_nested(number)

    def watch(self, due: float) -> None:
        """Let the calls that are due at this time of the event loop expire then.

        One timer for all calls, which is mostly there already: a timer of its own for
        each call costs a tenth of the host's work for a warm dispatch.
        """
        if self._alarm is None or due < self._alarm.when():
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._alarm = None
        now = self._loop.time()
        for call in list(self._calls.values()):
            if call.due is not None and call.due <= now:
                call.expire()
        due = min((call.due for call in self._calls.values() if call.due is not None), default=None)
        if due is not None:
            self.watch(due)

    def send(self, frame: frames.HostFrame) -> None:
        """Write a frame, together with all others of this turn of the event loop."""
        self._out.append(frames.encode(frame))
        if len(self._out) == 1:
            self._loop.call_soon(self._flush)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio)."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take the frames that ``data`` completes (asyncio)."""
        self._silent = 0
        try:
            for frame in self._decoder.feed(data):
                self._TAKE[type(frame)](self, frame)
        except frames.ProtocolError as error:
            self._end(Closed(f"it broke the protocol: {error}", broken=True))

    def connection_lost(self, error: Exception | None) -> None:
        """Note the end (asyncio)."""
        if self._decoder.pending:
            self._end(Closed(f"its last frame was cut off after {self._decoder.pending} bytes"))
        self._end(Closed("it closed its channel"))

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self.closed.done():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _end(self, closed: Closed) -> None:
        if self._nested is not None:
            self._nested.end()
        for timer in (self._heartbeat, self._alarm):
            if timer is not None:
                timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        if not self.closed.done():
            self.closed.set_result(closed)
        if self._started is not None and not self._started.done():
            self._started.set_exception(HandlerCrashed(f"the worker of {self._handler} ended: {closed.text}"))

    def _beat(self) -> None:
        """Ask for a sign of life; give the worker up that has given none for too long.

        The time is counted in heartbeats, not by the clock: while the host itself stood still
        (a paused container, a stopped process) nobody was asked, and nobody failed to answer.
        """
        interval = self.limits.heartbeat_interval
        silent = self._silent * interval
        if silent >= max(self.limits.hang_after, interval):
            text = f"it gave no sign of life for {silent:.0f} s (workers.hang_after)"
            self._end(Closed(text, broken=True, hang=True))
            return
        self._silent += 1
        self._sequence += 1
        self.send(frames.Ping(self._sequence))
        self._heartbeat = self._loop.call_later(interval, self._beat)

    def _take_piece(self, frame: frames.Chunk) -> None:
        call = self._calls.get(frame.number)
        if call is not None:
            call.chunk(frame.data)

    def _take_end(self, frame: frames.End) -> None:
        call = self._calls.pop(frame.number, None)
        if call is not None:
            call.ended(None, frame.data)
            self._end_nested(frame.number)

    def _take_error(self, frame: frames.Error) -> None:
        call = self._calls.pop(frame.number, None)
        if call is not None:
            kind = BY_CODE.get(frame.code, HandlerFault)
            if kind is HandlerOutOfMemory:
                self._exhaust()
            call.ended(kind(mask_secrets(frame.message), param=frame.param, retry_after=frame.retry_after))
            self._end_nested(frame.number)

    def _exhaust(self) -> None:
        self.exhausted = True
        self._on_exhausted()

    def _take_dispatch(self, frame: frames.Dispatch) -> None:
        if self._nested is None:
            if self._nest is None:
                self.send(frames.Error(frame.number, HandlerFault.code, "this host dispatches for no handler"))
                return
            self._nested = self._nest(self)
        self._nested.dispatch(frame, None if frame.parent is None else self._calls.get(frame.parent))

    def _take_cancel(self, frame: frames.Cancel) -> None:
        if self._nested is not None:
            self._nested.cancel(frame.number)

    def _take_credit(self, frame: frames.Credit) -> None:
        if self._nested is not None:
            self._nested.credit(frame.number, frame.amount)

    def _end_nested(self, number: int) -> None:
        if self._nested is not None:
            self._nested.parent_ended(number)

    def _take_log(self, frame: frames.Log) -> None:
        self._on_log(frame)

    def _take_pong(self, frame: frames.Pong) -> None:
        self.running = frame.running

    def _take_ready(self, frame: frames.Ready) -> None:
        if self._started is not None and not self._started.done():
            self._started.set_result(frame)

    def _take_failed(self, frame: frames.Failed) -> None:
        if frame.trace:
            self._on_log(frames.Log(40, "activation", frame.trace))
        if frame.out_of_memory:
            self._exhaust()
        if self._started is not None and not self._started.done():
            reason = mask_secrets(frame.reason)
            self._started.set_exception(ActivationFailed(f"{self._handler} could not be activated: {reason}"))

    _TAKE: ClassVar[dict[type[Any], Callable[[Channel, Any], None]]] = {
        frames.Chunk: _take_piece,
        frames.End: _take_end,
        frames.Error: _take_error,
        frames.Pong: _take_pong,
        frames.Log: _take_log,
        frames.Dispatch: _take_dispatch,
        frames.Cancel: _take_cancel,
        frames.Credit: _take_credit,
        frames.Ready: _take_ready,
        frames.Failed: _take_failed,
    }
    """Of the class, not bound: bound methods of its own would keep each channel until the collector comes."""
