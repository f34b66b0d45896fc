"""What a worker reports with its heartbeats."""

from __future__ import annotations

import asyncio

from handler_host.channel.frames import Pong


class Pongs:
    """The pongs of one worker: the latest, and those that the host waits for."""

    def __init__(self) -> None:
        self.latest: Pong | None = None
        """The latest one; None before the first."""
        self._expected: dict[int, asyncio.Future[Pong | None]] = {}

    async def wait(self, sequence: int) -> Pong | None:
        """Return the response to the ping of this number, or None if the channel closes first."""
        response: asyncio.Future[Pong | None] = asyncio.get_running_loop().create_future()
        self._expected[sequence] = response
        return await response

    def add(self, pong: Pong) -> None:
        """Keep a pong that has arrived."""
        self.latest = pong
        response = self._expected.pop(pong.sequence, None)
        if response is not None and not response.done():
            response.set_result(pong)

    def close(self) -> None:
        """End all waiting: no further pong arrives."""
        for response in self._expected.values():
            if not response.done():
                response.set_result(None)
        self._expected.clear()
