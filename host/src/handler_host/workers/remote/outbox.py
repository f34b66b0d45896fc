"""Messages to the other end of a control socket, which may be too busy to read them at once."""

from __future__ import annotations

import asyncio
import socket
from collections import deque

MAX_WAITING = 10_000
"""Messages that may wait; further ones are refused, as the other end hangs."""


class Outbox:
    """Sends messages over ``control``, a non-blocking socket that keeps their boundaries, in their order."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()

    def send(self, message: bytes) -> None:
        """Send a message now, or as soon as the socket takes it; raises ``OSError``."""
        if len(self._waiting) >= MAX_WAITING:
            raise BlockingIOError(f"{MAX_WAITING} messages are not read")
        if not self._waiting and self._try_send(message):
            return
        if not self._waiting:
            self._loop.add_writer(self._control, self._flush)
        self._waiting.append(message)

    def close(self) -> None:
        """Drop the messages that wait; the socket stays open."""
        if self._waiting:
            self._waiting.clear()
            self._loop.remove_writer(self._control)

    def _try_send(self, message: bytes) -> bool:
        try:
            self._control.send(message)
        except BlockingIOError:
            return False
        return True

    def _flush(self) -> None:
        try:
            while self._waiting and self._try_send(self._waiting[0]):
                self._waiting.popleft()
        except OSError:
            self.close()  # the other end is gone, which the reader of the socket sees
        if not self._waiting:
            self._loop.remove_writer(self._control)
