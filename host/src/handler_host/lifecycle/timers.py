"""Clocks that cost each dispatch next to nothing: restartable timers, and tracking of busy and idle times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from handler_host.lifecycle.events import TimerFired
from handler_host.lifecycle.state import Timer


class LazyTimer:
    """A timer that can be restarted for each dispatch without a new handle in the event loop.

    Only the deadline moves; the handle that is due earlier checks it.
    """

    def __init__(self, timer: Timer, post: Callable[[TimerFired], None]) -> None:
        self._timer = timer
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self._token = 0

    def start(self, token: int, delay: float) -> None:
        """Fire ``delay`` seconds from now, with ``token``."""
        self._token = token
        self._due = self._loop.time() + delay
        if self._handle is not None and self._handle.when() > self._due:
            self._handle.cancel()
            self._handle = None
        if self._handle is None:
            self._handle = self._loop.call_at(self._due, self._check)

    def stop(self) -> None:
        """Do not fire."""
        self._due = None

    def remaining(self) -> float | None:
        """Return the seconds left, or None if the timer does not run."""
        return None if self._due is None else max(0.0, self._due - self._loop.time())

    def _check(self) -> None:
        self._handle = None
        if self._due is None:
            return
        if self._due > self._loop.time():
            self._handle = self._loop.call_at(self._due, self._check)
            return
        self._due = None
        self._post(TimerFired(self._timer, self._token))


class BusyTracker:
    """Since when a worker is idle, and how long it is usually busy."""

    def __init__(self) -> None:
        self.idle_since: float | None = None
        """When it became idle, on the monotonic clock; None while it is busy or not ready."""
        self._busy_since: float | None = None
        self._usual_duration: float | None = None

    def update(self, *, is_busy: bool, is_idle: bool) -> bool:
        """Record the present state; return whether the worker has just become idle."""
        if is_idle is (self.idle_since is not None) and is_busy is (self._busy_since is not None):
            return False
        now = time.monotonic()
        if not is_busy and self._busy_since is not None:
            duration = now - self._busy_since
            self._usual_duration = duration if self._usual_duration is None else (self._usual_duration + duration) / 2
        became_idle = is_idle and self.idle_since is None
        self._busy_since = (self._busy_since or now) if is_busy else None
        self.idle_since = (self.idle_since or now) if is_idle else None
        return became_idle

    def seconds_left(self, default: float) -> float:
        """Return the seconds until the worker is probably idle; ``default`` if nothing is known."""
        if self._usual_duration is None or self._busy_since is None:
            return default
        return max(0.0, self._usual_duration - (time.monotonic() - self._busy_since))
