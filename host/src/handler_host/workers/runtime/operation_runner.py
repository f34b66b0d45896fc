"""Run the operations of the handler that the host calls, and send their responses.

Each call is a task. Its window bounds the bytes that it may send ahead of its reader.
"""

from __future__ import annotations

import asyncio
import logging
import reprlib
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from handler_host._internal.source_location import in_brackets
from handler_host._internal.units import bound_seconds
from handler_host.channel import frames
from handler_host.plugin.errors import (
    HandlerFault,
    HandlerOutOfMemory,
    HostError,
    InvalidInput,
    ResponseTooLarge,
    UnknownOperation,
    UpstreamError,
)
from handler_host.plugin.life import on_bytes
from handler_host.plugin.native_response import NativeResponse
from handler_host.plugin.operations import CallInfo
from handler_host.plugin.trace import traceparent
from handler_host.workers.resource_errors import out_of_resources, resource_error
from handler_host.workers.runtime.loading import Handler, Operation, load_error, plugin_traceback
from handler_host.workers.runtime.log_bridge import request_id
from handler_host.workers.runtime.native_calls import (
    check_part,
    checked_start,
    encode_start,
    native_request,
    whole_body,
)
from handler_host.workers.runtime.outgoing_calls import current
from handler_host.workers.runtime.stream_end import StreamEnd

FRAME_OVERHEAD = 64
"""Bytes of a Chunk frame besides its data, at most."""

LIFE_SIGN_INTERVAL_S = 0.25
"""Time between two signs of life of a provider that sends no chunk."""

_DONE = object()


class _LifeSigns:
    """Sender of signs of life for one call, at most one in each interval."""

    def __init__(self, send: Callable[[], None]) -> None:
        self._send = send
        self._sent_at = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._sent_at >= LIFE_SIGN_INTERVAL_S:
            self._sent_at = now
            self._send()


class RunningCall:
    """A call in progress: its task, and the bytes that it may still send."""

    __slots__ = ("cancelled", "credit", "task", "waiter")

    def __init__(self, credit: int) -> None:
        self.cancelled = False
        """The host has cancelled it, or the handler is unloaded; otherwise a CancelledError is the plugin's own."""
        self.credit = credit
        self.waiter: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Cancel its task; no response is sent."""
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()

    async def wait_for_credit(self) -> None:
        """Wait until the reader has read enough of what was sent."""
        while self.credit <= 0:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter


class OperationRunner:
    """Runner of the calls of one worker.

    It keeps ``calls``, the calls in progress by number, sends frames with ``send``, and passes the number of
    each ended call to ``on_call_end``.
    """

    def __init__(
        self,
        calls: dict[int, RunningCall],
        send: Callable[[frames.WorkerFrame], None],
        on_call_end: Callable[[int], None],
    ) -> None:
        self.max_frame = frames.DEFAULT_MAX_FRAME
        self._calls = calls
        self._send = send
        self._on_call_end = on_call_end
        self._loop = asyncio.get_running_loop()
        self._handler: Handler | None = None
        self._health: Callable[[], Awaitable[None]] | None = None
        self._log = logging.getLogger("handler")

    def serve(self, handler: Handler, health: Callable[[], Awaitable[None]]) -> None:
        """Run calls of ``handler`` from now on; ``health`` runs its health hook."""
        self._handler, self._health = handler, health

    def start_call(self, frame: frames.Call) -> None:
        """Start a call."""
        call = self._calls[frame.number] = RunningCall(frame.window)
        call.task = self._loop.create_task(self._run(frame, call))

    def start_health(self, frame: frames.Health) -> None:
        """Start the health hook; its response is that of a call."""
        call = self._calls[frame.number] = RunningCall(0)
        call.task = self._loop.create_task(self._run_health(frame, call))

    def cancel_call(self, frame: frames.Cancel) -> None:
        """Cancel a call whose response the host no longer needs."""
        call = self._calls.get(frame.number)
        if call is not None:
            call.cancel()

    def add_credit(self, frame: frames.Credit) -> None:
        """Allow a call to send further bytes."""
        call = self._calls.get(frame.number)
        if call is not None:
            call.credit += frame.amount
            if call.waiter is not None and not call.waiter.done():
                call.waiter.set_result(None)

    async def cancel_all(self) -> None:
        """Cancel all calls, and wait until they have cleaned up."""
        tasks = [call.task for call in self._calls.values() if call.task is not None]
        for call in self._calls.values():
            call.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, frame: frames.Call, call: RunningCall) -> None:
        """Run one call to its end; any exception becomes one Error frame."""
        request_id.set(frame.request_id)
        current.set(frame.number)
        traceparent.set(frame.traceparent)
        try:
            await self._run_operation(frame, call)
        except HostError as error:
            self._send_error(frame, error)
        except MemoryError as error:
            self._log.error("%s ran out of memory:\n%s", frame.operation, plugin_traceback(error))
            text = f"{frame.operation} could not get more memory (memory_hard_limit)"
            self._send_error(frame, HandlerOutOfMemory(text))
        except BaseException as error:
            # A plugin may raise anything: sys.exit() in one call must not end the others, and a client waits for
            # the response to a call that raises CancelledError although the host has not cancelled it.
            if call.cancelled and isinstance(error, asyncio.CancelledError):
                raise
            self._log.error("%s failed:\n%s", frame.operation, plugin_traceback(error))
            self._send_error(frame, _failure(frame, error))
        finally:
            del self._calls[frame.number]
            self._on_call_end(frame.number)

    async def _run_health(self, frame: frames.Health, call: RunningCall) -> None:
        """Run the health hook; the host sees its exception as the reason why the handler is not healthy."""
        assert self._health is not None, "the host checks the health only after Ready"
        request_id.set(frame.request_id)
        try:
            await self._health()
        except BaseException as error:
            if call.cancelled and isinstance(error, asyncio.CancelledError):
                raise
            reason = error if isinstance(error, HostError) else HandlerFault(load_error("health", error).reason)
            self._send_error(frame, reason)
        else:
            self._send(frames.End(frame.number, None))
        finally:
            del self._calls[frame.number]

    async def _run_operation(self, frame: frames.Call, call: RunningCall) -> None:
        assert self._handler is not None, "the host calls only after Ready"
        operation = self._handler.operations.get(frame.operation)
        if operation is None:
            known = ", ".join(sorted(self._handler.operations))
            raise UnknownOperation(f"unknown operation {frame.operation!r}; known: {known}", param="operation")
        if operation.kind == "native":
            await self._run_native(frame, call, operation)
            return
        arguments: list[Any] = [_decode(operation, frame.body)] if operation.takes_request else []
        named = {"call": self._call_info(frame)} if operation.takes_call else {}
        if operation.kind in ("stream", "iterator"):
            await self._run_stream(frame, call, operation, operation.method(*arguments, **named))
            return
        if operation.kind == "coroutine":
            value = await operation.method(*arguments, **named)
        else:
            value = await _run_in_thread(operation.method, *arguments, **named)
        await self._send_response(frame, call, self._encode(operation, operation.encode, value))

    async def _run_stream(self, frame: frames.Call, call: RunningCall, operation: Operation, source: Any) -> None:
        chunks: list[Any] = []
        if frame.streamed:
            on_bytes.set(_LifeSigns(lambda: self._send(frames.Chunk(frame.number, b""))))
        async with aclosing(source if operation.kind == "stream" else _iterate_in_threads(source)) as items:
            async for item in items:
                if frame.streamed:
                    await self._send_chunk(frame, call, self._encode(operation, operation.encode, item))
                else:
                    chunks.append(item)
        if frame.streamed:
            self._send(frames.End(frame.number, None))
        else:
            data = self._encode(operation, operation.encode_collected, operation.collect(chunks))
            await self._send_response(frame, call, data)

    async def _run_native(self, frame: frames.Call, call: RunningCall, operation: Operation) -> None:
        """Run a native operation: its response leaves as it comes, or in one message if the client takes no stream."""
        request = native_request(frame.operation, frame.body)
        named = {"call": self._call_info(frame)} if operation.takes_call else {}
        start: NativeResponse | None = None
        body: list[bytes] = []
        end = StreamEnd(frame.operation)
        async with aclosing(operation.method(request, **named)) as items:
            async for item in items:
                if start is None:
                    start = checked_start(item, operation.place)
                    if frame.streamed:
                        await self._send_chunk(frame, call, encode_start(start, request))
                    continue
                check_part(item, operation.place)
                end.feed(item)
                if not frame.streamed:
                    body.append(item)
                else:
                    for position in range(0, len(item), frames.FRAGMENT):
                        await self._send_chunk(frame, call, item[position : position + frames.FRAGMENT])
        if start is None:
            raise HandlerFault(f"{frame.operation} yielded no NativeResponse{in_brackets(operation.place)}")
        end.check()
        if frame.streamed:
            self._send(frames.End(frame.number, None))
        else:
            await self._send_response(frame, call, encode_start(start, request, whole_body(body)))

    def _encode(self, operation: Operation, encode: Callable[[Any], bytes], value: Any) -> bytes:
        """Return ``value`` as JSON; raises :class:`HandlerFault` if it has no JSON form, or not the declared type."""
        try:
            return encode(value)
        except msgspec.ValidationError as error:
            flaw = f"does not match its declared type: {error}"
        except (TypeError, msgspec.EncodeError) as error:
            flaw = f"cannot be encoded as JSON: {error}"
        text = f"the response of {operation.info.name} {flaw}"
        remedy = "correct the response, or the return type of the method"
        self._log.error("%s%s; it was %s; %s", text, in_brackets(operation.place), reprlib.repr(value), remedy)
        raise HandlerFault(text)

    async def _send_response(self, frame: frames.Call, call: RunningCall, data: bytes) -> None:
        if frame.streamed:
            await self._send_chunk(frame, call, data)
            self._send(frames.End(frame.number, None))
            return
        start = 0
        while len(data) - start > frames.FRAGMENT:
            await call.wait_for_credit()
            call.credit -= frames.FRAGMENT
            self._send(frames.Chunk(frame.number, data[start : start + frames.FRAGMENT]))
            start += frames.FRAGMENT
        self._send(frames.End(frame.number, data[start:]))

    async def _send_chunk(self, frame: frames.Call, call: RunningCall, data: bytes) -> None:
        limit = self.max_frame - FRAME_OVERHEAD
        if len(data) > limit:
            text = f"chunk of {len(data)} bytes is longer than the limit of {limit}; raise workers.max_frame"
            raise ResponseTooLarge(text)
        await call.wait_for_credit()
        call.credit -= len(data)
        self._send(frames.Chunk(frame.number, data))

    def _send_error(self, frame: frames.Call | frames.Health, error: HostError) -> None:
        # A plugin may have set fields of other types, and a malformed frame would break the channel for all calls.
        param = None if error.param is None else str(error.param)
        retry_after = bound_seconds(error.retry_after) if isinstance(error.retry_after, int | float) else None
        cause = _cause_of(error)
        response = error.response if isinstance(error, UpstreamError) else None
        cause = None if cause is None else str(cause)
        reply = frames.Error(frame.number, error.code, str(error.message), param, retry_after, cause, response)
        self._send(reply if len(frames.encode(reply)) <= self.max_frame else _cut(reply, self.max_frame))

    def _call_info(self, frame: frames.Call) -> CallInfo:
        return CallInfo(
            request_id=frame.request_id,
            operation=frame.operation,
            streamed=frame.streamed,
            deadline=time.monotonic() + frame.timeout if frame.timeout is not None else None,
            log=logging.LoggerAdapter(self._log, {}),
            traceparent=frame.traceparent,
        )


def _cause_of(error: HostError) -> str | None:
    """Return the cause of an error that the handler has given, or that of a provider's failure."""
    if error.cause is not None or not isinstance(error, UpstreamError):
        return error.cause
    try:
        from handler_host.workers.runtime.failure_cause import describe_cause  # only a failure needs it
    except OSError:  # without descriptors, which may be the cause, nothing can be imported
        return None
    return describe_cause(error)


def _cut(error: frames.Error, max_frame: int) -> frames.Error:
    """Return the error with texts that fit into one frame: the host ends a worker that sends a longer one."""
    limit = max_frame // 16  # three texts of up to 4 bytes per character take three quarters of the frame
    message, param, cause = (
        text if text is None or len(text) <= limit else f"{text[: limit - 1]}…"
        for text in (error.message, error.param, error.cause)
    )
    return frames.Error(error.number, error.code, message or "", param, error.retry_after, cause)


def _decode(operation: Operation, body: bytes) -> Any:
    try:
        return operation.decode(body or b"{}")
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or None
        raise InvalidInput(f"{param}: {text}" if param else text, param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None


def _failure(frame: frames.Call, error: BaseException) -> HostError:
    """Return the error for the client if an operation failed with ``error``."""
    refusal = resource_error(error)
    if refusal is not None:
        return out_of_resources(f"a thread, process or file of {frame.operation}", refusal)
    text = f"{frame.operation} failed with {type(error).__name__}; see request {frame.request_id} in the log"
    return HandlerFault(text)


async def _run_in_thread(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Run ``function`` in a thread, so that it does not block the event loop; return its result."""

    def run() -> Any:
        try:
            return function(*arguments, **named)
        except StopIteration as error:
            # asyncio cannot set it as a future's exception: the caller would wait for ever.
            raise RuntimeError("the operation raised StopIteration") from error

    return await asyncio.to_thread(run)


async def _iterate_in_threads(iterator: Any) -> Any:
    """Iterate over a generator; each step runs in a thread."""
    try:
        while (item := await asyncio.to_thread(next, iterator, _DONE)) is not _DONE:
            yield item
    finally:
        await asyncio.to_thread(iterator.close)
