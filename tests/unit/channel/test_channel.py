"""The host's end of the channel, against a worker's end that the test drives frame by frame."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from handler_host.channel import frames
from handler_host.channel.call import Call, ChannelLimits
from handler_host.channel.channel import Channel
from handler_host.channel.timeouts import CallTimeouts
from handler_host.plugin.errors import (
    ActivationFailed,
    ActivationTimeout,
    DeadlineExceeded,
    HandlerCrashed,
    ResponseTooLarge,
)
from tests.support import error_of, within

NO_LIMITS = CallTimeouts(None, None, None)
SPEC = frames.WorkerSpec(handler="x", entry_point="x:X", distribution="x", version="1")


class Peer:
    """The worker's end, driven by the test."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames: asyncio.Queue[frames.HostFrame] = asyncio.Queue()
        self._decoder = frames.host_frame_decoder(2**20)

    async def receive(self) -> frames.HostFrame:
        """Return the next frame of the host."""
        while self._frames.empty():
            data = await within(asyncio.get_running_loop().sock_recv(self._sock, 65536))
            assert data, "the host has closed the channel"
            for frame in self._decoder.feed(data):
                self._frames.put_nowait(frame)
        return self._frames.get_nowait()

    async def receive_number(self) -> int:
        """Return the number of the next frame, which is a call."""
        frame = await self.receive()
        assert isinstance(frame, frames.Call)
        return frame.number

    async def receive_ping(self) -> frames.Ping:
        """Return the next frame, which is a ping."""
        frame = await self.receive()
        assert isinstance(frame, frames.Ping)
        return frame

    async def send(self, *sent: frames.WorkerFrame) -> None:
        """Send frames to the host."""
        await self.send_bytes(b"".join(map(frames.encode, sent)))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes to the host."""
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    def close(self) -> None:
        """Close this end."""
        self._sock.close()


@asynccontextmanager
async def channel(
    *, on_log: Callable[[frames.Log], None] = lambda record: None, **limits: Any
) -> AsyncIterator[tuple[Channel, Peer]]:
    """Open a channel with these limits; yield it and the worker's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    theirs.setblocking(False)
    opened = await Channel.open(
        ours,
        handler="x",
        generation=1,
        limits=ChannelLimits(**limits),
        on_log=on_log,
    )
    try:
        yield opened, Peer(theirs)
    finally:
        opened.close()
        theirs.close()
        await asyncio.sleep(0)


def start_call(opened: Channel, *, streamed: bool = False, timeouts: CallTimeouts = NO_LIMITS) -> Call:
    return opened.call("op", b"{}", streamed=streamed, request_id="r", timeouts=timeouts)


async def started(opened: Channel, peer: Peer) -> None:
    """Start the handler; the worker reports that it is ready."""
    starting = asyncio.ensure_future(opened.start(SPEC, 30.0))
    assert isinstance(await peer.receive(), frames.Start)
    await peer.send(frames.Ready(frames.PROTOCOL_VERSION, (), 0.0, 0.0))
    await within(starting)


class TestCalls:
    async def test_responses_in_any_order(self) -> None:
        async with channel() as (opened, peer):
            calls = [start_call(opened) for _ in range(3)]
            numbers = [await peer.receive_number() for _ in calls]
            assert len(set(numbers)) == 3
            await peer.send(*(frames.End(number, b"%d" % number) for number in reversed(numbers)))
            assert [await within(call.read_response()) for call in calls] == [b"%d" % number for number in numbers]
            assert opened.in_flight == 0

    async def test_late_and_unknown_frames_are_ignored(self) -> None:
        async with channel() as (opened, peer):
            late = start_call(opened, timeouts=CallTimeouts(0.01, None, None))
            assert isinstance(await error_of(late.read_response()), DeadlineExceeded)
            number = await peer.receive_number()
            assert isinstance(await peer.receive(), frames.Cancel)
            call = start_call(opened)
            await peer.send(frames.End(number, b"late"), frames.Chunk(999, b"x"), frames.End(number + 1, b"own"))
            assert await within(call.read_response()) == b"own"

    async def test_numbers_are_unique(self) -> None:
        async with channel() as (opened, peer):
            numbers = set()
            for _ in range(50):
                start_call(opened).cancel()
                numbers.add(await peer.receive_number())
                assert isinstance(await peer.receive(), frames.Cancel)
            assert len(numbers) == 50

    async def test_credit_follows_consumption(self) -> None:
        async with channel(window=100) as (opened, peer):
            call = start_call(opened, streamed=True)
            number = await peer.receive_number()
            await peer.send(frames.Chunk(number, b"x" * 60), frames.Chunk(number, b"y" * 60))
            chunks = await within(call.read_chunks())
            while sum(map(len, chunks)) < 120:
                chunks += await within(call.read_chunks())
            reading = asyncio.ensure_future(call.read_chunks())
            assert await peer.receive() == frames.Credit(number, 120)
            await peer.send(frames.End(number, None))
            assert await within(reading) == []

    async def test_an_empty_chunk_restarts_the_wait(self) -> None:
        """It is a sign of life of the provider, and no part of the response."""
        async with channel() as (opened, peer):
            stream = start_call(opened, streamed=True, timeouts=CallTimeouts(None, 60.0, None))
            number = await peer.receive_number()
            reading = asyncio.ensure_future(stream.read_chunks())
            await asyncio.sleep(0.05)
            before = stream.expires_at
            await peer.send(frames.Chunk(number, b""))
            await asyncio.sleep(0.05)
            assert before is not None
            assert stream.expires_at is not None
            assert stream.expires_at > before
            assert not reading.done()
            await peer.send(frames.Chunk(number, b"1"))
            assert await within(reading) == [b"1"]

    async def test_time_limit_is_named(self) -> None:
        async with channel() as (opened, peer):
            stream = start_call(opened, streamed=True, timeouts=CallTimeouts(None, 0.01, None))
            assert "first_byte_timeout" in (await error_of(stream.read_chunks())).message
            gap = start_call(opened, streamed=True, timeouts=CallTimeouts(None, None, 0.01))
            await peer.receive_number()
            assert isinstance(await peer.receive(), frames.Cancel)
            number = await peer.receive_number()
            await peer.send(frames.Chunk(number, b"1"))
            assert await within(gap.read_chunks()) == [b"1"]
            assert "gap_timeout" in (await error_of(gap.read_chunks())).message
            assert await peer.receive() == frames.Cancel(number)

    async def test_fragments_are_joined_up_to_the_limit(self) -> None:
        async with channel(max_answer=100) as (opened, peer):
            call = start_call(opened)
            number = await peer.receive_number()
            await peer.send(frames.Chunk(number, b"a" * 50), frames.Chunk(number, b"b" * 49), frames.End(number, b"c"))
            assert await within(call.read_response()) == b"a" * 50 + b"b" * 49 + b"c"
            too_long = start_call(opened)
            assert [await peer.receive(), await peer.receive()] == [
                frames.Credit(number, 50),
                frames.Credit(number, 49),
            ]
            number = await peer.receive_number()
            await peer.send(frames.Chunk(number, b"a" * 101))
            assert isinstance(await error_of(too_long.read_response()), ResponseTooLarge)

    async def test_cancelled_consumer_cancels_the_call(self) -> None:
        async with channel() as (opened, peer):
            call = start_call(opened)
            number = await peer.receive_number()
            waiting = asyncio.ensure_future(call.read_response())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})
            assert waiting.cancelled()
            assert await peer.receive() == frames.Cancel(number)
            assert opened.in_flight == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frames.HEADER.pack(2**31), "2147483648 bytes"),
        (frames.HEADER.pack(2) + b"\xc1\xc1", "malformed"),
        (frames.HEADER.pack(50) + b"half", "cut off"),
    ],
)
async def test_invalid_bytes_close_the_channel(data: bytes, reason: str) -> None:
    """Calls in flight then wait until the host can explain how the worker ended."""
    async with channel() as (opened, peer):
        call = start_call(opened)
        await peer.receive_number()
        await peer.send_bytes(data)
        if "cut" in reason:
            peer.close()
        assert reason in (await within(opened.closed)).text
        reading = asyncio.ensure_future(error_of(call.read_response()))
        await asyncio.sleep(0)
        assert not reading.done()
        opened.fail(HandlerCrashed("explained"))
        assert (await within(reading)).message == "explained"
        assert (await error_of(start_call(opened).read_response())).message == "explained"


class TestStart:
    async def test_failed(self) -> None:
        async with channel() as (opened, peer):
            starting = asyncio.ensure_future(error_of(opened.start(SPEC, 5.0)))
            assert isinstance(await peer.receive(), frames.Start)
            await peer.send(frames.Failed("no luck", "trace"))
            error = await within(starting)
            assert isinstance(error, ActivationFailed)
            assert "no luck" in error.message
            assert error.retryable

    async def test_failed_for_good(self) -> None:
        async with channel() as (opened, peer):
            starting = asyncio.ensure_future(error_of(opened.start(SPEC, 5.0)))
            assert isinstance(await peer.receive(), frames.Start)
            await peer.send(frames.Failed("no key", "trace", is_retryable=False))
            error = await within(starting)
            assert (error.code, error.retryable) == ("activation_failed", False)

    async def test_timeout(self) -> None:
        async with channel() as (opened, _):
            assert isinstance(await error_of(opened.start(SPEC, 0.01)), ActivationTimeout)

    async def test_worker_ends(self) -> None:
        async with channel() as (opened, peer):
            starting = asyncio.ensure_future(error_of(opened.start(SPEC, 5.0)))
            await peer.receive()
            peer.close()
            assert isinstance(await within(starting), HandlerCrashed)

    async def test_stopped_host_does_not_count(self) -> None:
        async with channel() as (opened, peer):
            starting = asyncio.ensure_future(opened.start(SPEC, 1.0))
            await peer.receive()
            time.sleep(1.5)  # noqa: ASYNC251 - blocks the loop as a stopped process does
            for _ in range(3):
                await asyncio.sleep(0)  # the host's timers run before the worker continues
            await peer.send(frames.Ready(frames.PROTOCOL_VERSION, (), 0.0, 0.0))
            await within(starting)

    async def test_other_protocol_version(self) -> None:
        async with channel() as (opened, peer):
            starting = asyncio.ensure_future(error_of(opened.start(SPEC, 5.0)))
            await peer.receive()
            await peer.send(frames.Ready(frames.PROTOCOL_VERSION + 1, (), 0.0, 0.0))
            assert "protocol" in (await within(starting)).message


class TestHeartbeat:
    async def test_stopped_host_does_not_count(self) -> None:
        """A container that is paused for longer than hang_after stops the host and all its workers."""
        async with channel(heartbeat_interval=0.02, hang_after=0.2) as (opened, peer):
            await started(opened, peer)
            ping = await peer.receive_ping()
            time.sleep(0.5)  # noqa: ASYNC251 - blocks the loop as a stopped process does
            for _ in range(3):
                await asyncio.sleep(0)  # the host's timers run before it reads the worker's response
            while ping.sequence < 5:
                await peer.send(frames.Pong(ping.sequence, 0))
                ping = await peer.receive_ping()
            assert not opened.closed.done()

    async def test_silence_is_a_hang(self) -> None:
        async with channel(heartbeat_interval=0.02, hang_after=0.2) as (opened, peer):
            await started(opened, peer)
            loop = asyncio.get_running_loop()
            end = loop.time() + 0.5
            while loop.time() < end:
                ping = await peer.receive_ping()
                await peer.send(frames.Pong(ping.sequence, 0))
            assert not opened.closed.done()
            assert (await within(opened.closed)).hang


class TestPing:
    async def test_report(self) -> None:
        async with channel() as (opened, peer):
            await started(opened, peer)
            await peer.receive_ping()
            pinging = asyncio.ensure_future(opened.ping())
            ping = await peer.receive_ping()
            report = frames.Pong(ping.sequence, 2, 1.5, 10.0)
            await peer.send(frames.Pong(ping.sequence - 1, 1, 1.0, 9.0), report)
            assert await within(pinging) == report
            assert opened.pongs.latest == report

    async def test_closed(self) -> None:
        async with channel() as (opened, peer):
            await started(opened, peer)
            pinging = asyncio.ensure_future(opened.ping())
            await peer.receive_ping()
            await peer.receive_ping()
            peer.close()
            assert await within(pinging) is None
            assert await within(opened.ping()) is None
