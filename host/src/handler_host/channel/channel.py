"""The host's end of the channel to one worker: many calls at a time over one socket.

One asyncio protocol reads and writes the frames of ``handler_host.channel.frames``. A call needs no task and no queue:
its reader waits on at most one future. The buffer for a slow reader is bounded by the call's window, so it stops its
own stream and no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import msgspec

from handler_host._internal.log import mask_secrets
from handler_host.channel import frames
from handler_host.channel.call import Call, ChannelLimits
from handler_host.channel.error_frames import host_error
from handler_host.channel.frame_writer import FrameWriter
from handler_host.channel.log_limiter import LogLimiter
from handler_host.channel.log_pacer import LogPacer
from handler_host.channel.pongs import Pongs
from handler_host.channel.timeouts import CallTimeouts
from handler_host.channel.transports import Connection, attach
from handler_host.plugin.errors import (
    ActivationFailed,
    ActivationTimeout,
    HandlerCrashed,
    HandlerFault,
    HandlerOutOfMemory,
    HostError,
    OutOfResources,
    PermanentActivationFailure,
)

ACTIVATION_STEPS = 10
"""Steps in which the time for an activation is counted: a host that is stopped for long loses one of them at most."""


class CloseReason(msgspec.Struct, frozen=True):
    """Why a channel is closed."""

    text: str
    broken: bool = False
    """The worker is still running, but hangs or has violated the protocol."""
    hang: bool = False


class HandlerCallRunner(Protocol):
    """Runner of a worker's dispatches to other handlers, numbered as its frames (``dispatch.handler_calls``)."""

    def dispatch(self, frame: frames.Dispatch, parent: Call | None) -> None:
        """Start a dispatch; ``parent`` is the call that it belongs to."""

    def cancel(self, number: int) -> None:
        """Cancel a dispatch whose response the worker no longer needs."""

    def credit(self, number: int, amount: int) -> None:
        """Allow ``amount`` further bytes of a response to be sent."""

    def end_children(self, number: int) -> None:
        """Cancel the dispatches of call ``number``, which has ended."""

    def end(self) -> None:
        """Cancel all dispatches; nothing can be sent to the worker any more."""


class Channel(FrameWriter):
    """The connection to one worker, from its start to its end.

    ``closed`` is set once, when no further frame can arrive. Calls in flight then wait for :meth:`fail`, so
    that their error can explain how the worker ended. ``on_out_of_memory`` is called when the worker reports
    that it could not get more memory. ``make_call_runner`` makes the runner of the worker's own dispatches
    when the first one arrives; without it they are refused.
    """

    def __init__(
        self,
        handler: str,
        generation: int,
        limits: ChannelLimits,
        on_log: Callable[[frames.Log], None],
        on_out_of_memory: Callable[[], None] | None = None,
        make_call_runner: Callable[[Channel], HandlerCallRunner] | None = None,
    ) -> None:
        super().__init__()
        self.limits = limits
        self.out_of_memory = False
        """The worker has reported that it could not get more memory."""
        self.pongs = Pongs()
        self.closed: asyncio.Future[CloseReason] = self._loop.create_future()
        self._handler = handler
        self._generation = generation
        self._log_pacer = LogPacer(on_log)
        self._on_out_of_memory = on_out_of_memory
        # `workers.max_frame` bounds chunks, which the worker checks: other frames, such as a long log line, always fit.
        self._decoder = frames.worker_frame_decoder(max(limits.max_frame, frames.DEFAULT_MAX_FRAME))
        self._calls: dict[int, Call] = {}
        self._last_number = 0
        self._make_call_runner = make_call_runner
        self._call_runner: HandlerCallRunner | None = None
        self._failure: HostError | None = None
        self._ready: asyncio.Future[frames.Ready] | None = None
        self._missed_heartbeats = 0
        self._sequence = 0
        self._log_limiter = LogLimiter()
        self._heartbeat: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls,
        connection: Connection,
        *,
        handler: str,
        generation: int,
        limits: ChannelLimits,
        on_log: Callable[[frames.Log], None],
        on_out_of_memory: Callable[[], None] | None = None,
        make_call_runner: Callable[[Channel], HandlerCallRunner] | None = None,
    ) -> Channel:
        """Open a channel over ``connection``, which it then owns."""
        channel = cls(handler, generation, limits, on_log, on_out_of_memory, make_call_runner)
        await attach(connection, channel)
        return channel

    @property
    def in_flight(self) -> int:
        """Number of calls that have not ended."""
        return len(self._calls)

    async def start(self, spec: frames.WorkerSpec, timeout: float) -> frames.Ready:
        """Start the handler of ``spec`` in the worker, within ``timeout`` seconds; return the worker's report.

        Raises ``ActivationFailed`` with the handler's reason, ``ActivationTimeout``, or ``HandlerCrashed`` if the
        worker ends before it is ready.
        """
        self._ready = self._loop.create_future()
        self.send(frames.Start(frames.PROTOCOL_VERSION, self._generation, spec))
        if self.closed.done():
            self._ready.cancel()
            raise HandlerCrashed(self.closed.result().text)
        try:
            ready = await self._wait_for_ready(self._ready, timeout)
        finally:
            self._ready.cancel()
        if ready.protocol != frames.PROTOCOL_VERSION:
            raise PermanentActivationFailure(
                f"the worker of {self._handler} uses protocol {ready.protocol}, the host {frames.PROTOCOL_VERSION}; "
                "install the host's own version of handler-host in the worker's environment"
            )
        self._missed_heartbeats = 0
        self._send_heartbeat()
        return ready

    async def _wait_for_ready(self, ready: asyncio.Future[frames.Ready], timeout: float) -> frames.Ready:
        for _ in range(ACTIVATION_STEPS):
            await asyncio.wait({ready}, timeout=timeout / ACTIVATION_STEPS)
            if ready.done():
                return ready.result()
        raise ActivationTimeout(
            f"{self._handler} was not ready within {timeout:g} s (activate_timeout)", retry_after=timeout
        )

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
        """Send a dispatch to the worker; return the call, which receives the response.

        ``chain`` names the handlers that wait for the response, if another handler dispatches.
        """
        self._last_number = number = self._last_number + 1
        call = Call(self, number, streamed, timeouts, request_id, chain, traceparent)
        if self._failure is not None:
            call.finish(self._failure)
            return call
        self._calls[number] = call
        timeout = timeouts.first_byte if streamed else timeouts.total
        self.send(frames.Call(number, operation, body, streamed, self.limits.window, timeout, request_id, traceparent))
        return call

    def check_health(self, *, request_id: str, timeout: float) -> Call:
        """Run the health hook, within ``timeout`` seconds; the response is empty, or the error that the hook raises."""
        self._last_number = number = self._last_number + 1
        call = Call(self, number, False, CallTimeouts(total=timeout, first_byte=None, gap=None))
        if self._failure is not None:
            call.finish(self._failure)
            return call
        self._calls[number] = call
        self.send(frames.Health(number, request_id))
        return call

    async def ping(self) -> frames.Pong | None:
        """Return a report that the worker makes now; None if the channel closes first, at the latest by a hang."""
        if self.closed.done():
            return None
        self._sequence += 1
        self.send(frames.Ping(self._sequence))
        return await self.pongs.wait(self._sequence)

    def stop(self, grace: float) -> None:
        """Ask the worker to deactivate and exit within ``grace`` seconds."""
        self.send(frames.Stop(grace))

    def fail(self, error: HostError) -> None:
        """End all calls, and all later ones, with ``error``."""
        self._failure = error
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.finish(error)

    def close(self) -> None:
        """Close the socket; calls in flight end with ``HandlerCrashed``."""
        self._close(CloseReason("closed by the host"))
        if self._failure is None:
            self.fail(HandlerCrashed(f"the worker of {self._handler} is gone"))

    def drop_call(self, number: int) -> None:
        """Remove a call and cancel it at the worker; later frames of it are ignored."""
        if self._calls.pop(number, None) is not None:
            self.send(frames.Cancel(number))
            self._end_children(number)

    def schedule_expiry(self, expires_at: float) -> None:
        """Expire the calls that are due at this time of the event loop.

        All calls share one timer, which is usually set already: a timer for each call costs a tenth of the
        host's work for a warm dispatch (``make bench-dispatch``).
        """
        if self._expiry is None or expires_at < self._expiry.when():
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry = self._loop.call_at(expires_at, self._expire_calls)

    def send(self, frame: frames.HostFrame) -> None:
        """Send a frame; all frames of one turn of the event loop leave in one write."""
        self.write(frames.encode(frame))

    def data_received(self, data: bytes) -> None:
        """Handle the frames that ``data`` completes (asyncio)."""
        self._missed_heartbeats = 0
        try:
            for frame in self._decoder.feed(data):
                self._RECEIVERS[type(frame)](self, frame)
        except frames.ProtocolError as error:
            self._close(CloseReason(f"it violated the protocol: {error}", broken=True))

    def connection_lost(self, error: Exception | None) -> None:
        """Close the channel (asyncio)."""
        if self._decoder.pending:
            self._close(CloseReason(f"its last frame was cut off after {self._decoder.pending} bytes"))
        self._close(CloseReason("it closed its channel"))

    def _close(self, reason: CloseReason) -> None:
        if self._call_runner is not None:
            self._call_runner.end()
        for timer in (self._heartbeat, self._expiry):
            if timer is not None:
                timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        if not self.closed.done():
            self.closed.set_result(reason)
        self.pongs.close()
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(HandlerCrashed(f"the worker of {self._handler} ended: {reason.text}"))

    def _expire_calls(self) -> None:
        self._expiry = None
        now = self._loop.time()
        for call in list(self._calls.values()):
            if call.expires_at is not None and call.expires_at <= now:
                call.expire()
        earliest = min((call.expires_at for call in self._calls.values() if call.expires_at is not None), default=None)
        if earliest is not None:
            self.schedule_expiry(earliest)

    def _send_heartbeat(self) -> None:
        """Send a ping; close the channel to a worker that has sent nothing within ``hang_after``.

        The time is counted in heartbeats, not by the clock: while the host itself stood still
        (a paused container, a stopped process) no ping was sent that a worker could have missed.
        """
        interval = self.limits.heartbeat_interval
        silent_s = self._missed_heartbeats * interval
        if silent_s >= max(self.limits.hang_after, interval):
            text = f"heartbeat timeout after {silent_s:.0f} s (workers.hang_after)"
            self._close(CloseReason(text, broken=True, hang=True))
            return
        self._missed_heartbeats += 1
        self._sequence += 1
        self.send(frames.Ping(self._sequence))
        self._heartbeat = self._loop.call_later(interval, self._send_heartbeat)

    def _handle_chunk(self, frame: frames.Chunk) -> None:
        call = self._calls.get(frame.number)
        if call is not None:
            call.add_chunk(frame.data)

    def _handle_end(self, frame: frames.End) -> None:
        call = self._calls.pop(frame.number, None)
        if call is not None:
            call.finish(None, frame.data)
            self._end_children(frame.number)

    def _handle_error(self, frame: frames.Error) -> None:
        call = self._calls.pop(frame.number, None)
        if call is not None:
            error = host_error(frame)
            if isinstance(error, HandlerOutOfMemory):
                self._note_out_of_memory()
            call.finish(error)
            self._end_children(frame.number)

    def _note_out_of_memory(self) -> None:
        self.out_of_memory = True
        if self._on_out_of_memory is not None:
            self._on_out_of_memory()

    def _handle_dispatch(self, frame: frames.Dispatch) -> None:
        if self._call_runner is None:
            if self._make_call_runner is None:
                text = "this host does not dispatch for handlers"
                self.send(frames.Error(frame.number, HandlerFault.code, text))
                return
            self._call_runner = self._make_call_runner(self)
        self._call_runner.dispatch(frame, None if frame.parent is None else self._calls.get(frame.parent))

    def _handle_cancel(self, frame: frames.Cancel) -> None:
        if self._call_runner is not None:
            self._call_runner.cancel(frame.number)

    def _handle_credit(self, frame: frames.Credit) -> None:
        if self._call_runner is not None:
            self._call_runner.credit(frame.number, frame.amount)

    def _end_children(self, number: int) -> None:
        if self._call_runner is not None:
            self._call_runner.end_children(number)

    def _handle_log(self, frame: frames.Log) -> None:
        now_s = self._loop.time()
        for record in self._log_limiter.admit(frame, now_s):
            self._log_pacer.add(record)
        if self._log_limiter.is_flooding and self._transport is not None and self._transport.is_reading():
            # Decoding what is dropped costs, too. Its other frames wait as well, at most a second.
            self._transport.pause_reading()
            self._loop.call_later(1.0 - now_s % 1.0, self._resume_reading)

    def _resume_reading(self) -> None:
        if self._transport is not None and not self.closed.done():
            self._missed_heartbeats = 0
            self._transport.resume_reading()

    def _handle_ready(self, frame: frames.Ready) -> None:
        if self._ready is None or self._ready.done():
            return
        try:
            msgspec.json.encode(frame.operations)
        except RecursionError:
            raise frames.ProtocolError("the schema of an operation is nested too deeply") from None
        self._ready.set_result(frame)

    def _handle_failed(self, frame: frames.Failed) -> None:
        if self._ready is None or self._ready.done():
            return
        if frame.trace:
            self._log_pacer.add(frames.Log(40, "activation", frame.trace))
        if frame.out_of_memory:
            self._note_out_of_memory()
        text = f"{self._handler} could not be activated: {mask_secrets(frame.reason)}"
        if frame.out_of_resources:
            self._ready.set_exception(OutOfResources(text, retry_after=1.0))
        else:
            self._ready.set_exception((ActivationFailed if frame.is_retryable else PermanentActivationFailure)(text))

    _RECEIVERS: ClassVar[dict[type[Any], Callable[[Channel, Any], None]]] = {
        frames.Chunk: _handle_chunk,
        frames.End: _handle_end,
        frames.Error: _handle_error,
        frames.Pong: lambda channel, frame: channel.pongs.add(frame),
        frames.Log: _handle_log,
        frames.Dispatch: _handle_dispatch,
        frames.Cancel: _handle_cancel,
        frames.Credit: _handle_credit,
        frames.Ready: _handle_ready,
        frames.Failed: _handle_failed,
    }
    """Functions, not bound methods, which would keep each channel alive until the garbage collector runs."""
