"""Clocks that cost each dispatch next to nothing: a timer that is started anew, spells of work and of idleness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from handler_host.lifecycle import state as life


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


class BusyTracker:
    """Since when a worker is idle, and how long it is usually busy."""

    def __init__(self) -> None:
        self.idle_since: float | None = None
        """When it was left with nothing to do, on the monotonic clock; None while it has something, or is not there."""
        self._busy_since: float | None = None
        self._usual: float | None = None

    def note(self, *, busy: bool, idle: bool) -> bool:
        """Take how it stands now; return whether it has just become idle."""
        if idle is (self.idle_since is not None) and busy is (self._busy_since is not None):
            return False
        now = time.monotonic()
        if not busy and self._busy_since is not None:
            spell = now - self._busy_since
            self._usual = spell if self._usual is None else (self._usual + spell) / 2
        became_idle = idle and self.idle_since is None
        self._busy_since = (self._busy_since or now) if busy else None
        self.idle_since = (self.idle_since or now) if idle else None
        return became_idle

    def busy_left(self, otherwise: float) -> float:
        """Return the seconds after which it is usually idle again; ``otherwise`` while nobody knows."""
        if self._usual is None or self._busy_since is None:
            return otherwise
        return max(0.0, self._usual - (time.monotonic() - self._busy_since))
