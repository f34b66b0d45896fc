"""Frames that a worker does not read at once wait in the host, uncopied and in order."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from handler_host.channel.frame_writer import WRITE_BYTES, FrameWriter


async def test_frames_wait_for_a_worker_that_does_not_read() -> None:
    """The transport, which copies, never has more than one write and its own limit."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    transport, writer = await asyncio.get_running_loop().create_connection(FrameWriter, sock=ours)
    with theirs:
        sent = [
            bytes([number]) * size for number, size in enumerate([10, 5 * WRITE_BYTES + 1, 20, 30, WRITE_BYTES, 40])
        ]
        for frame in sent:
            writer.write(frame)
        await asyncio.sleep(0)
        _, high_bytes = transport.get_write_buffer_limits()
        assert 0 < transport.get_write_buffer_size() <= high_bytes + WRITE_BYTES

        expected = b"".join(sent)
        received = bytearray()
        theirs.setblocking(False)
        while len(received) < len(expected):
            received += await asyncio.get_running_loop().sock_recv(theirs, 2**20)
        assert received == expected
        writer.write(b"end")
        assert await asyncio.get_running_loop().sock_recv(theirs, 10) == b"end"
    transport.abort()


async def test_frames_of_one_turn_leave_together() -> None:
    ours, theirs = socket.socketpair()
    transport, writer = await asyncio.get_running_loop().create_connection(FrameWriter, sock=ours)
    with theirs:
        for frame in (b"a", b"b", b"c"):
            writer.write(frame)
        await asyncio.sleep(0)
        assert theirs.recv(10, socket.MSG_DONTWAIT) == b"abc"
        transport.abort()
        writer.write(b"late")  # after the end: nothing happens
        await asyncio.sleep(0)
        assert theirs.recv(10) == b""


async def test_a_long_frame_to_a_worker_that_has_gone_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """The transport logs each write after the first failed ones."""
    ours, theirs = socket.socketpair()
    transport, writer = await asyncio.get_running_loop().create_connection(FrameWriter, sock=ours)
    theirs.close()
    with caplog.at_level(logging.WARNING):
        writer.write(bytes(20 * WRITE_BYTES))
        await asyncio.sleep(0)
    assert transport.is_closing()
    assert caplog.messages == []
