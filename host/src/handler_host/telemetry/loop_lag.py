"""How late the event loop runs what is due."""

from __future__ import annotations

import asyncio
import time

from handler_host.telemetry.counters import Histogram

LAG_INTERVAL = 0.5
"""Seconds between two looks at how late the event loop is."""
LAG_SPAN = 300.0
"""Seconds without a scrape after which it is not looked at any more."""


class LoopLag:
    """Measures how late the event loop runs what is due; only while somebody scrapes."""

    def __init__(self) -> None:
        self.seen = Histogram()
        self.last = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._until = 0.0

    def wanted(self) -> None:
        """Go on measuring for a while."""
        self._until = time.monotonic() + LAG_SPAN
        if self._timer is None:
            self._start()

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + LAG_INTERVAL
        self._timer = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self.last = max(0.0, asyncio.get_running_loop().time() - self._due)
        self.seen.observe(self.last)
        self._timer = None
        if time.monotonic() < self._until:
            self._start()
