"""Messages of an engine's driver while the other end does not read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from handler_host.workers.remote import outbox
from handler_host.workers.remote.outbox import Outbox


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def test_no_message_is_lost_while_the_other_end_is_busy(sockets: tuple[socket.socket, socket.socket]) -> None:
    """A socket takes a few hundred messages; a driver with a thousand workers has more to report."""
    ours, theirs = sockets
    messages = [b"%d" % number for number in range(3000)]
    box = Outbox(ours)
    for message in messages:
        box.send(message)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        assert [await loop.sock_recv(theirs, 100) for _ in messages] == messages
    box.close()


async def test_a_hanging_end_does_not_fill_the_memory(
    sockets: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_WAITING", 10)
    box = Outbox(sockets[0])
    while len(box._waiting) < 10:
        box.send(b"x")
    with pytest.raises(BlockingIOError, match="10 messages are not read"):
        box.send(b"x")
    box.close()


async def test_an_end_that_is_gone_leaves_nothing_behind(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = sockets
    box = Outbox(ours)
    for _ in range(3000):
        box.send(b"x")
    theirs.close()
    await asyncio.sleep(0.05)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        box.send(b"x")
