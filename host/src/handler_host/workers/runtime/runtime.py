"""The worker's end of the channel: takes calls, runs operations, sends what they answer.

Each call is a task. What it may send ahead of its consumer is bounded by the
window of the call; frames that are written within one turn of the event loop
leave in one write.
"""

from __future__ import annotations

import asyncio
import logging
import os
import reprlib
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from handler_host._internal.source_location import in_brackets
from handler_host.channel import frames
from handler_host.plugin.errors import (
    HandlerFault,
    HandlerOutOfMemory,
    HostError,
    InvalidInput,
    ResponseTooLarge,
    UnknownOperation,
)
from handler_host.plugin.operations import CallInfo
from handler_host.plugin.trace import traceparent
from handler_host.workers.runtime.handler_calls import HandlerCalls, current
from handler_host.workers.runtime.loading import Handler, Operation, failed, trace_of
from handler_host.workers.runtime.log_bridge import request_id

_DONE = object()


class _Running:
    """A call under way: its task, and what it may still send."""

    __slots__ = ("cancelled", "credit", "task", "waiter")

    def __init__(self, credit: int) -> None:
        self.cancelled = False
        """Nobody waits for its answer. A call that is cancelled otherwise has cancelled itself."""
        self.credit = credit
        self.waiter: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """End it; it is not answered."""
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()


class Runtime(asyncio.Protocol):
    """Speaks the protocol for one worker.

    ``started`` gets the ``Start`` frame, ``stopping`` the seconds that a ``Stop`` (or
    :meth:`stop`) gives, ``lost`` is set when the host is gone.
    """

    def __init__(self, max_frame: int = 2**31) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[frames.Start] = loop.create_future()
        self.stopping: asyncio.Future[float] = loop.create_future()
        self.lost = asyncio.Event()
        self.forked = False
        """This is a process that the plugin has forked, and the worker is another one."""
        self.max_frame = frames.DEFAULT_MAX_FRAME
        self._loop = loop
        # The host is trusted; its frames are as long as the bodies that it has admitted.
        self._decoder = frames.host_frame_decoder(max_frame)
        self._transport: asyncio.Transport | None = None
        self._handler: Handler | None = None
        self._health: Callable[[], Awaitable[None]] | None = None
        self._running: dict[int, _Running] = {}
        self.outgoing = HandlerCalls(self.send, self._running)
        self._out: list[bytes] = []
        self._drained: asyncio.Future[None] | None = None
        self._log = logging.getLogger("handler")
        self._take: dict[type[Any], Callable[[Any], None]] = {
            frames.Start: self._take_start,
            frames.Call: self._take_call,
            frames.Cancel: self._take_cancel,
            frames.Credit: self._take_credit,
            frames.Ping: self._take_ping,
            frames.Stop: self._take_stop,
            frames.Chunk: self.outgoing.chunk,
            frames.End: self.outgoing.end,
            frames.Error: self.outgoing.error,
            frames.Health: self._take_health,
        }

    def serve(self, handler: Handler, health: Callable[[], Awaitable[None]]) -> None:
        """Run the calls that come from now on; ``health`` is what the host's question for it runs."""
        self._handler, self._health = handler, health
        self.outgoing.closed = None

    def send(self, frame: frames.WorkerFrame) -> None:
        """Send a frame with all others of this turn of the event loop."""
        self._out.append(frames.encode(frame))
        if len(self._out) == 1:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what was sent."""
        self._end_if_forked()
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def stop(self, grace: float) -> None:
        """Stop as if the host had asked for it."""
        if not self.stopping.done():
            self.stopping.set_result(grace)

    async def end_calls(self) -> None:
        """Cancel the calls that are under way, and wait until they have closed what they opened."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for running in self._running.values():
            running.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.outgoing.close("the handler is being unloaded: it dispatches no more")

    async def written(self) -> None:
        """Wait until all that was sent has left the process, or nobody is there to read it."""
        self.flush()
        transport = self._transport
        if transport is None or transport.is_closing() or not transport.get_write_buffer_size():
            return
        self._drained = self._loop.create_future()
        transport.set_write_buffer_limits(high=0)
        await self._drained

    def resume_writing(self) -> None:
        """Note that nothing is left to write (asyncio)."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio)."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take the frames that ``data`` completes (asyncio)."""
        for frame in self._decoder.feed(data):
            self._take[type(frame)](frame)

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the host is gone (asyncio)."""
        self._end_if_forked()
        self.lost.set()
        self.outgoing.close("the host is gone")
        self.resume_writing()
        if not self.started.done():
            self.started.cancel()
        if not self.stopping.done():
            self.stopping.cancel()

    def _end_if_forked(self) -> None:
        if self.forked:
            os._exit(0)

    def _take_start(self, frame: frames.Start) -> None:
        self.max_frame = self.outgoing.max_frame = frame.spec.max_frame
        self.started.set_result(frame)

    def _take_call(self, frame: frames.Call) -> None:
        running = self._running[frame.number] = _Running(frame.window)
        running.task = self._loop.create_task(self._run(frame, running))

    def _take_health(self, frame: frames.Health) -> None:
        running = self._running[frame.number] = _Running(0)
        running.task = self._loop.create_task(self._run_health(frame, running))

    def _take_cancel(self, frame: frames.Cancel) -> None:
        running = self._running.get(frame.number)
        if running is not None:
            running.cancel()

    def _take_credit(self, frame: frames.Credit) -> None:
        running = self._running.get(frame.number)
        if running is not None:
            running.credit += frame.amount
            if running.waiter is not None and not running.waiter.done():
                running.waiter.set_result(None)

    def _take_ping(self, frame: frames.Ping) -> None:
        self.send(frames.Pong(frame.sequence, len(self._running)))

    def _take_stop(self, frame: frames.Stop) -> None:
        self.stop(frame.grace)

    async def _run(self, frame: frames.Call, running: _Running) -> None:
        """Run one call to its end; whatever it raises becomes one Error frame."""
        request_id.set(frame.request_id)
        current.set(frame.number)
        traceparent.set(frame.traceparent)
        try:
            await self._response(frame, running)
        except HostError as error:
            self._fail(frame, error)
        except MemoryError as error:
            self._log.error("%s ran out of memory:\n%s", frame.operation, trace_of(error))
            self._fail(frame, HandlerOutOfMemory(f"{frame.operation} could get no more memory (memory_hard_limit)"))
        except BaseException as error:
            # A plugin may raise anything: sys.exit() in one call is no reason to end the others, and a
            # CancelledError that nobody has asked for is an answer that somebody waits for.
            if running.cancelled and isinstance(error, asyncio.CancelledError):
                raise
            self._log.error("%s failed:\n%s", frame.operation, trace_of(error))
            text = f"{frame.operation} failed with {type(error).__name__}; the log has it under {frame.request_id}"
            self._fail(frame, HandlerFault(text))
        finally:
            del self._running[frame.number]
            self.outgoing.call_ended(frame.number)

    async def _run_health(self, frame: frames.Health, running: _Running) -> None:
        """Run the health hook; what it raises is why the handler cannot do its work."""
        assert self._health is not None, "questions come after Ready"
        request_id.set(frame.request_id)
        try:
            await self._health()
        except BaseException as error:
            if running.cancelled and isinstance(error, asyncio.CancelledError):
                raise
            self._fail(frame, error if isinstance(error, HostError) else HandlerFault(failed("health", error).reason))
        else:
            self.send(frames.End(frame.number, None))
        finally:
            del self._running[frame.number]

    def _fail(self, frame: frames.Call | frames.Health, error: HostError) -> None:
        # Whatever a plugin has put into it: a frame of other types would break the channel for all calls.
        param = None if error.param is None else str(error.param)
        retry_after = error.retry_after if isinstance(error.retry_after, int | float) else None
        self.send(frames.Error(frame.number, error.code, str(error.message), param, retry_after))

    async def _response(self, frame: frames.Call, running: _Running) -> None:
        assert self._handler is not None, "calls come after Ready"
        operation = self._handler.operations.get(frame.operation)
        if operation is None:
            known = ", ".join(sorted(self._handler.operations))
            raise UnknownOperation(f"there is no operation {frame.operation!r}; there are: {known}", param="operation")
        arguments: list[Any] = [_decode(operation, frame.body)] if operation.takes_request else []
        named = {"call": self._info(frame)} if operation.takes_call else {}
        if operation.kind in ("stream", "iterator"):
            await self._stream(frame, running, operation, operation.method(*arguments, **named))
            return
        if operation.kind == "coroutine":
            value = await operation.method(*arguments, **named)
        else:
            value = await _in_thread(operation.method, *arguments, **named)
        await self._send_answer(frame, running, self._encode(operation, operation.encode, value))

    async def _stream(self, frame: frames.Call, running: _Running, operation: Operation, source: Any) -> None:
        chunks: list[Any] = []
        async with aclosing(source if operation.kind == "stream" else _iterate(source)) as items:
            async for item in items:
                if frame.streamed:
                    await self._send_piece(frame, running, self._encode(operation, operation.encode, item))
                else:
                    chunks.append(item)
        if frame.streamed:
            self.send(frames.End(frame.number, None))
        else:
            data = self._encode(operation, operation.encode_collected, operation.collect(chunks))
            await self._send_answer(frame, running, data)

    def _encode(self, operation: Operation, encode: Callable[[Any], bytes], value: Any) -> bytes:
        """Return an answer as JSON; raises :class:`HandlerFault` for one that is none, or not of its type."""
        try:
            return encode(value)
        except msgspec.ValidationError as error:
            what, flaw = "does not fit its declared type", str(error)
        except (TypeError, msgspec.EncodeError) as error:
            what, flaw = "is no JSON", str(error)
        text = f"{operation.info.name} answered with what {what}: {flaw}"
        remedy = "correct the answer, or the type that the method is annotated with"
        self._log.error("%s%s; it was %s; %s", text, in_brackets(operation.place), reprlib.repr(value), remedy)
        raise HandlerFault(text)

    async def _send_answer(self, frame: frames.Call, running: _Running, data: bytes) -> None:
        if frame.streamed:
            await self._send_piece(frame, running, data)
            self.send(frames.End(frame.number, None))
            return
        start = 0
        while len(data) - start > frames.FRAGMENT:
            await self._room(running)
            running.credit -= frames.FRAGMENT
            self.send(frames.Chunk(frame.number, data[start : start + frames.FRAGMENT]))
            start += frames.FRAGMENT
        self.send(frames.End(frame.number, data[start:]))

    async def _send_piece(self, frame: frames.Call, running: _Running, data: bytes) -> None:
        if len(data) > self.max_frame - 64:
            raise ResponseTooLarge(
                f"a piece of {len(data)} bytes, where at most {self.max_frame - 64} are allowed (workers.max_frame)"
            )
        await self._room(running)
        running.credit -= len(data)
        self.send(frames.Chunk(frame.number, data))

    async def _room(self, running: _Running) -> None:
        """Wait until the call may send: its consumer has taken enough of what was sent."""
        while running.credit <= 0:
            running.waiter = self._loop.create_future()
            await running.waiter

    def _info(self, frame: frames.Call) -> CallInfo:
        return CallInfo(
            request_id=frame.request_id,
            operation=frame.operation,
            streamed=frame.streamed,
            deadline=time.monotonic() + frame.timeout if frame.timeout is not None else None,
            log=logging.LoggerAdapter(self._log, {}),
            traceparent=frame.traceparent,
        )


def _decode(operation: Operation, body: bytes) -> Any:
    try:
        return operation.decode(body or b"{}")
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or None
        raise InvalidInput(f"{param}: {text}" if param else text, param=param) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None


async def _in_thread(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Return what the function returns in a thread, so that it does not block the loop."""

    def run() -> Any:
        try:
            return function(*arguments, **named)
        except StopIteration as error:
            # No future takes it: who waits for the thread would wait for ever.
            raise RuntimeError("the operation raised StopIteration") from error

    return await asyncio.to_thread(run)


async def _iterate(iterator: Any) -> Any:
    """Iterate over a generator in threads."""
    try:
        while (item := await asyncio.to_thread(next, iterator, _DONE)) is not _DONE:
            yield item
    finally:
        await asyncio.to_thread(iterator.close)
