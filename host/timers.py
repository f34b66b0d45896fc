"""A timer that can be started anew for each dispatch at next to no cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from host import lifecycle as life


class LazyTimer:
    """A timer that is started anew for each dispatch without a new handle in the loop.

    Only the deadline moves; the handle that is due earlier looks again then.
    """

    def __init__(self, timer: life.Timer, post: Callable[[life.Event], None]) -> None:
        self._timer = timer
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self._token = 0

    def start(self, token: int, delay: float) -> None:
        """Run out ``delay`` seconds from now, with ``token``."""
        self._token = token
        self._due = self._loop.time() + delay
        if self._handle is not None and self._handle.when() > self._due:
            self._handle.cancel()
            self._handle = None
        if self._handle is None:
            self._handle = self._loop.call_at(self._due, self._look)

    def stop(self) -> None:
        """Do not run out."""
        self._due = None

    def remaining(self) -> float | None:
        """Return the seconds that are left, or None if it does not run."""
        return None if self._due is None else max(0.0, self._due - self._loop.time())

    def _look(self) -> None:
        self._handle = None
        if self._due is None:
            return
        if self._due > self._loop.time():
            self._handle = self._loop.call_at(self._due, self._look)
            return
        self._due = None
        self._post(life.TimerFired(self._timer, self._token))
