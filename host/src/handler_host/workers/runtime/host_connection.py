"""The worker's connection to the host: receives frames, passes them on, sends frames.

Frames that are sent within one turn of the event loop leave in one write.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from handler_host.channel import frames
from handler_host.workers.child_processes import reap_daemons
from handler_host.workers.runtime.loading import Handler
from handler_host.workers.runtime.operation_runner import OperationRunner, RunningCall
from handler_host.workers.runtime.outgoing_calls import OutgoingCalls
from handler_host.workers.runtime.watchdog import Watchdog


class HostConnection(asyncio.Protocol):
    """The worker's end of the channel.

    ``started`` receives the ``Start`` frame; ``stopping`` the seconds of the ``Stop`` frame.
    Both are cancelled, and ``disconnected`` is set, when the host is gone.
    """

    def __init__(self, max_frame: int = 2**31) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[frames.Start] = loop.create_future()
        self.stopping: asyncio.Future[float] = loop.create_future()
        self.disconnected = asyncio.Event()
        self._forked = False
        self._loop = loop
        # The host is trusted: its frames are as long as the bodies that it has accepted.
        self._decoder = frames.host_frame_decoder(max_frame)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._drained: asyncio.Future[None] | None = None
        self._watchdog = Watchdog(self._abort)
        self._memory: Callable[[], frames.WorkerMemory | None] | None = None
        self._calls: dict[int, RunningCall] = {}
        self.handler_calls = OutgoingCalls(self.send, self._calls)
        self._runner = OperationRunner(self._calls, self.send, self.handler_calls.call_ended)
        self._receivers: dict[type[Any], Callable[[Any], None]] = {
            frames.Start: self._receive_start,
            frames.Call: self._runner.start_call,
            frames.Cancel: self._runner.cancel_call,
            frames.Credit: self._runner.add_credit,
            frames.Ping: self._receive_ping,
            frames.Stop: self._receive_stop,
            frames.Chunk: self.handler_calls.chunk,
            frames.End: self.handler_calls.end,
            frames.Error: self.handler_calls.error,
            frames.Health: self._runner.start_health,
        }

    def serve(self, handler: Handler, health: Callable[[], Awaitable[None]]) -> None:
        """Run calls of ``handler`` from now on; ``health`` runs its health hook."""
        self._runner.serve(handler, health)
        self.handler_calls.closed = None

    def send(self, frame: frames.WorkerFrame) -> None:
        """Send a frame, together with all others of this turn of the event loop."""
        self._out.append(frames.encode(frame))
        if len(self._out) == 1:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the frames that were sent."""
        self._exit_if_forked()
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def note_fork(self) -> None:
        """Note that this process was forked by the plugin: it is not the worker, and exits at its next frame."""
        self._forked = True

    async def cancel_calls(self) -> None:
        """Cancel all calls, wait until they have cleaned up, and refuse further dispatches of the handler."""
        await self._runner.cancel_all()
        self.handler_calls.close("the handler is being unloaded: it dispatches no more")

    async def drain(self) -> None:
        """Wait until all sent frames have left the process, or the host is gone."""
        self.flush()
        transport = self._transport
        if transport is None or transport.is_closing() or not transport.get_write_buffer_size():
            return
        self._drained = self._loop.create_future()
        transport.set_write_buffer_limits(high=0)
        await self._drained

    def resume_writing(self) -> None:
        """Note that the write buffer is empty (asyncio)."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio)."""
        # The transport of another event loop (uvloop) does not inherit from asyncio's class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Pass on the frames that ``data`` completes (asyncio)."""
        self._watchdog.reset()
        for frame in self._decoder.feed(data):
            self._receivers[type(frame)](frame)

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the host is gone (asyncio)."""
        self._exit_if_forked()
        self._watchdog.stop()
        self.disconnected.set()
        self.handler_calls.close("the host is gone")
        self.resume_writing()
        if not self.started.done():
            self.started.cancel()
        if not self.stopping.done():
            self.stopping.cancel()

    def _exit_if_forked(self) -> None:
        if self._forked:
            os._exit(0)

    def _receive_start(self, frame: frames.Start) -> None:
        self._runner.max_frame = self.handler_calls.max_frame = frame.spec.max_frame
        self._watchdog.hang_after_s = frame.spec.hang_after
        if frame.spec.is_remote:
            from handler_host.workers.runtime.own_memory import read_own_memory  # the host measures local workers

            self._memory = read_own_memory
        self.started.set_result(frame)

    def _receive_ping(self, frame: frames.Ping) -> None:
        self._watchdog.start()
        reap_daemons()
        memory = self._memory() if self._memory is not None else None
        self.send(frames.Pong(frame.sequence, len(self._calls), time.process_time(), time.monotonic(), memory))

    def _abort(self) -> None:
        """End as if the host had closed the channel: after a partition nothing else ends this worker."""
        if self._transport is not None:
            self._transport.abort()

    def _receive_stop(self, frame: frames.Stop) -> None:
        if not self.stopping.done():
            self.stopping.set_result(frame.grace)
