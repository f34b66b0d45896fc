"""Responses of a worker to heartbeats."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handler_host.channel.frames import Pong


def used_share(first: Pong, last: Pong) -> float:
    """Return the processors that a worker used between two of its pongs."""
    seconds = last.at_s - first.at_s
    return (last.cpu_s - first.cpu_s) / seconds if seconds > 0 else 0.0


class Pongs:
    """Pongs of one worker: the latest one, and the expected ones."""

    def __init__(self) -> None:
        self.latest: Pong | None = None
        """The latest one; None before the first."""
        self._heartbeat: Pong | None = None
        """One before it, at least a second older."""
        self._expected: dict[int, asyncio.Future[Pong | None]] = {}

    async def wait(self, sequence: int) -> Pong | None:
        """Return the response to the ping of this number, or None if the channel closes first."""
        response: asyncio.Future[Pong | None] = asyncio.get_running_loop().create_future()
        self._expected[sequence] = response
        return await response

    def add(self, pong: Pong) -> None:
        """Keep a pong that has arrived."""
        if self.latest is not None and pong.at_s - self.latest.at_s >= 1.0:
            self._heartbeat = self.latest
        self.latest = pong
        response = self._expected.pop(pong.sequence, None)
        if response is not None and not response.done():
            response.set_result(pong)

    @property
    def used_share(self) -> float | None:
        """The processors that the worker used over its last heartbeat; None before the second one."""
        if self.latest is None or self._heartbeat is None:
            return None
        return used_share(self._heartbeat, self.latest)

    def close(self) -> None:
        """End all waiting: no further pong arrives."""
        for response in self._expected.values():
            if not response.done():
                response.set_result(None)
        self._expected.clear()
