"""Writer of frames: it gives the transport no more than it can soon send."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

WRITE_BYTES = 256 * 1024
"""Most bytes of one write: the transport copies what the worker does not read at once."""


class FrameWriter(asyncio.Protocol):
    """The writing side of a channel; all frames of one turn of the event loop leave in one write."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[bytes | memoryview] = deque()
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio)."""
        # The transport of another event loop (uvloop) does not inherit from asyncio's class.
        self._transport = cast(asyncio.Transport, transport)

    def write(self, frame: bytes) -> None:
        """Write an encoded frame at the end of this turn, or when the worker has read those before it."""
        self._waiting.append(frame)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._flush)

    def pause_writing(self) -> None:
        """Keep further frames: the transport has enough to send (asyncio)."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Write the frames that have waited (asyncio)."""
        self._is_paused = False
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            if self._transport is None or self._transport.is_closing():  # perhaps since the last write
                self._waiting.clear()
            elif self._is_paused:
                return
            else:
                self._transport.write(self._next_part())

    def _next_part(self) -> bytes | memoryview:
        """Return the next frames, or a part of a long one."""
        first = self._waiting.popleft()
        if len(first) > WRITE_BYTES:
            view = memoryview(first)
            self._waiting.appendleft(view[WRITE_BYTES:])
            return view[:WRITE_BYTES]
        parts, size_bytes = [first], len(first)
        while self._waiting and (size_bytes := size_bytes + len(self._waiting[0])) <= WRITE_BYTES:
            parts.append(self._waiting.popleft())
        return first if len(parts) == 1 else b"".join(parts)
