"""The host's end of the channel, against the real worker's end and against ends that misbehave."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from handler_host.channel import frames
from handler_host.channel.call import Call, CallTimeouts, ChannelLimits
from handler_host.channel.channel import Channel
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
    """The worker's end, by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames: asyncio.Queue[frames.HostFrame] = asyncio.Queue()
        self._decoder = frames.host_frames(2**20)

    async def sent(self) -> frames.HostFrame:
        """Return the next frame that the host has sent."""
        while self._frames.empty():
            data = await within(asyncio.get_running_loop().sock_recv(self._sock, 65536))
            assert data, "the host has closed the channel"
            for frame in self._decoder.feed(data):
                self._frames.put_nowait(frame)
        return self._frames.get_nowait()

    async def send(self, *sent: frames.WorkerFrame) -> None:
        """Send frames to the host."""
        await asyncio.get_running_loop().sock_sendall(self._sock, b"".join(map(frames.encode, sent)))

    async def raw(self, data: bytes) -> None:
        """Send bytes to the host."""
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    def leave(self) -> None:
        """Close this end."""
        self._sock.close()


@asynccontextmanager
async def channel(**limits: float) -> AsyncIterator[tuple[Channel, Peer]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    theirs.setblocking(False)
    opened = await Channel.open(
        ours,
        handler="x",
        generation=1,
        limits=ChannelLimits(**limits),
        on_log=lambda record: None,  # type: ignore[arg-type]
    )
    try:
        yield opened, Peer(theirs)
    finally:
        opened.close()
        theirs.close()
        await asyncio.sleep(0)


def begin(opened: Channel, *, streamed: bool = False, timeouts: CallTimeouts = NO_LIMITS) -> Call:
    return opened.call("op", b"{}", streamed=streamed, request_id="r", timeouts=timeouts)


async def test_answers_reach_their_own_calls_in_whatever_order_they_come() -> None:
    async with channel() as (opened, peer):
        calls = [begin(opened) for _ in range(3)]
        numbers = [(await peer.sent()).number for _ in calls]  # type: ignore[union-attr]
        assert len(set(numbers)) == 3
        await peer.send(*(frames.End(number, b"%d" % number) for number in reversed(numbers)))
        assert [await within(call.response()) for call in calls] == [b"%d" % number for number in numbers]
        assert opened.in_flight == 0


async def test_frames_for_calls_that_are_over_or_never_were_are_ignored() -> None:
    async with channel() as (opened, peer):
        late = begin(opened, timeouts=CallTimeouts(0.01, None, None))
        assert isinstance(await error_of(late.response()), DeadlineExceeded)
        number = (await peer.sent()).number  # type: ignore[union-attr]
        assert isinstance(await peer.sent(), frames.Cancel)
        call = begin(opened)
        await peer.send(frames.End(number, b"late"), frames.Chunk(999, b"x"), frames.End(number + 1, b"own"))
        assert await within(call.response()) == b"own"


async def test_numbers_are_never_used_twice() -> None:
    async with channel() as (opened, peer):
        seen = set()
        for _ in range(50):
            begin(opened).cancel()
            seen.add((await peer.sent()).number)  # type: ignore[union-attr]
            assert isinstance(await peer.sent(), frames.Cancel)
        assert len(seen) == 50


async def test_credit_is_given_as_the_consumer_takes_and_not_before() -> None:
    async with channel(window=100) as (opened, peer):
        call = begin(opened, streamed=True)
        number = (await peer.sent()).number  # type: ignore[union-attr]
        await peer.send(frames.Chunk(number, b"x" * 60), frames.Chunk(number, b"y" * 60))
        taken = await within(call.chunks())
        while sum(map(len, taken)) < 120:
            taken += await within(call.chunks())
        asking = asyncio.ensure_future(call.chunks())
        assert await peer.sent() == frames.Credit(number, 120)
        await peer.send(frames.End(number, None))
        assert await within(asking) == []


async def test_each_time_limit_is_named_in_its_error() -> None:
    async with channel() as (opened, peer):
        stream = begin(opened, streamed=True, timeouts=CallTimeouts(None, 0.01, None))
        assert "first_byte_timeout" in (await error_of(stream.chunks())).message
        gap = begin(opened, streamed=True, timeouts=CallTimeouts(None, None, 0.01))
        sent = [await peer.sent() for _ in range(3)]
        number = sent[-1].number  # type: ignore[union-attr]
        await peer.send(frames.Chunk(number, b"1"))
        assert await within(gap.chunks()) == [b"1"]
        assert "gap_timeout" in (await error_of(gap.chunks())).message
        assert await peer.sent() == frames.Cancel(number)


async def test_fragments_of_an_answer_are_joined_up_to_the_limit() -> None:
    async with channel(max_answer=100) as (opened, peer):
        call = begin(opened)
        number = (await peer.sent()).number  # type: ignore[union-attr]
        await peer.send(frames.Chunk(number, b"a" * 50), frames.Chunk(number, b"b" * 49), frames.End(number, b"c"))
        assert await within(call.response()) == b"a" * 50 + b"b" * 49 + b"c"
        over = begin(opened)
        assert [await peer.sent(), await peer.sent()] == [frames.Credit(number, 50), frames.Credit(number, 49)]
        number = (await peer.sent()).number  # type: ignore[union-attr]
        await peer.send(frames.Chunk(number, b"a" * 101))
        assert isinstance(await error_of(over.response()), ResponseTooLarge)


async def test_a_consumer_that_is_cancelled_cancels_its_call_at_the_worker() -> None:
    async with channel() as (opened, peer):
        call = begin(opened)
        number = (await peer.sent()).number  # type: ignore[union-attr]
        waiting = asyncio.ensure_future(call.response())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert await peer.sent() == frames.Cancel(number)
        assert opened.in_flight == 0


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (frames.HEADER.pack(2**31), "2147483648 bytes"),
        (frames.HEADER.pack(2) + b"\xc1\xc1", "malformed"),
        (frames.HEADER.pack(50) + b"half", "cut off"),
    ],
)
async def test_what_is_no_frame_closes_the_channel_and_calls_wait_for_the_explanation(data: bytes, told: str) -> None:
    async with channel() as (opened, peer):
        call = begin(opened)
        await peer.sent()
        await peer.raw(data)
        if "cut" in told:
            peer.leave()
        closed = await within(opened.closed)
        assert told in closed.text
        asking = asyncio.ensure_future(error_of(call.response()))
        await asyncio.sleep(0)
        assert not asking.done()
        opened.fail(HandlerCrashed("explained"))
        assert (await within(asking)).message == "explained"
        assert (await error_of(begin(opened).response())).message == "explained"


async def test_start_tells_why_there_is_no_handler() -> None:
    async with channel() as (opened, peer):
        starting = asyncio.ensure_future(error_of(opened.start(SPEC, 5.0)))
        assert isinstance(await peer.sent(), frames.Start)
        await peer.send(frames.Failed("no luck", "trace"))
        error = await within(starting)
        assert isinstance(error, ActivationFailed)
        assert "no luck" in error.message
    async with channel() as (opened, peer):
        assert isinstance(await error_of(opened.start(SPEC, 0.01)), ActivationTimeout)
    async with channel() as (opened, peer):
        starting = asyncio.ensure_future(error_of(opened.start(SPEC, 5.0)))
        await peer.sent()
        peer.leave()
        assert isinstance(await within(starting), HandlerCrashed)
    async with channel() as (opened, peer):
        starting = asyncio.ensure_future(error_of(opened.start(SPEC, 5.0)))
        await peer.sent()
        await peer.send(frames.Ready(frames.PROTOCOL_VERSION + 1, (), 0.0, 0.0))
        assert "protocol" in (await within(starting)).message


async def test_a_host_that_stood_still_does_not_take_its_workers_for_hung() -> None:
    """Given a host that was stopped for longer than hang_after, as a container is paused with all its workers."""
    async with channel(heartbeat_interval=0.02, hang_after=0.2) as (opened, peer):
        starting = asyncio.ensure_future(opened.start(SPEC, 30.0))
        await peer.sent()
        await peer.send(frames.Ready(frames.PROTOCOL_VERSION, (), 0.0, 0.0))
        await within(starting)
        ping = await peer.sent()
        time.sleep(0.5)  # noqa: ASYNC251 - the loop stands still: that is what is tested
        for _ in range(3):
            await asyncio.sleep(0)  # the host's timers come first, then the worker's answer
        while isinstance(ping, frames.Ping) and ping.sequence < 5:
            await peer.send(frames.Pong(ping.sequence, 0))
            ping = await peer.sent()
        assert not opened.closed.done()


async def test_any_frame_is_a_sign_of_life_and_silence_is_a_hang() -> None:
    async with channel(heartbeat_interval=0.02, hang_after=0.2) as (opened, peer):
        starting = asyncio.ensure_future(opened.start(SPEC, 5.0))
        await peer.sent()
        await peer.send(frames.Ready(frames.PROTOCOL_VERSION, (), 0.0, 0.0))
        await within(starting)
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.5
        while loop.time() < end:
            ping = await peer.sent()
            assert isinstance(ping, frames.Ping)
            await peer.send(frames.Pong(ping.sequence, 0))
        assert not opened.closed.done()
        closed = await within(opened.closed)
        assert closed.hang
