"""Clocks that cost each dispatch next to nothing: restartable timers, and tracking of busy and idle times.

What a timer is for is decided elsewhere: the idle time in ``idle_unload.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from handler_host.lifecycle.events import TimerFired
from handler_host.lifecycle.state import Timer


class LazyTimer:
    """A timer that can be restarted for each dispatch without a new handle in the event loop.

    Only the deadline moves; the handle that is due earlier checks it. ``generation`` is
    that of the worker that the timer belongs to, None for a timer of the handler.
    """

    def __init__(self, timer: Timer, generation: int | None, post: Callable[[TimerFired], None]) -> None:
        self._timer = timer
        self._generation = generation
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

    def close(self) -> None:
        """Do not fire, and leave no handle in the event loop."""
        self._due = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

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
        self._post(TimerFired(self._timer, self._token, self._generation))


class BusyDurations:
    """How long the workers of a handler are usually busy at a time, in seconds."""

    def __init__(self) -> None:
        self.usual: float | None = None
        """A mean in which the latest counts most; None before the first."""

    def record(self, duration: float) -> None:
        """Record that a worker was busy for ``duration`` seconds."""
        self.usual = duration if self.usual is None else (self.usual + duration) / 2


class BusyTracker:
    """Since when a worker is busy or idle."""

    def __init__(self, durations: BusyDurations) -> None:
        self.idle_since: float | None = None
        """When it became idle, on the monotonic clock; None while it is busy or not ready."""
        self._busy_since: float | None = None
        self._durations = durations

    def update(self, is_busy: bool, is_idle: bool) -> bool:
        """Record the present state; return whether the worker has just become idle."""
        if is_idle is (self.idle_since is not None) and is_busy is (self._busy_since is not None):
            return False
        now = time.monotonic()
        if not is_busy and self._busy_since is not None:
            self._durations.record(now - self._busy_since)
        became_idle = is_idle and self.idle_since is None
        self._busy_since = (self._busy_since or now) if is_busy else None
        self.idle_since = (self.idle_since or now) if is_idle else None
        return became_idle

    def busy_for_another(self, default: float) -> float:
        """Return the seconds until the worker is probably idle: 0 if it is idle, ``default`` if nothing is known."""
        if self._busy_since is None:
            return 0.0
        if self._durations.usual is None:
            return default
        return max(0.0, self._durations.usual - (time.monotonic() - self._busy_since))


def latest(moments: Iterable[float | None]) -> float | None:
    """Return the latest of moments or durations; None if one of them is None, or if there are none."""
    known = []
    for moment in moments:
        if moment is None:
            return None
        known.append(moment)
    return max(known, default=None)
