"""Lag of the event loop: how late it runs a timer."""

from __future__ import annotations

import asyncio
import time

from handler_host.telemetry.counters import Histogram

INTERVAL_S = 0.5
"""Seconds between two measurements."""
IDLE_S = 300.0
"""Seconds without a scrape after which the measurements stop."""


class LoopLag:
    """Measures the lag of the event loop while the metrics are scraped."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.last = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._until = 0.0

    def keep_measuring(self) -> None:
        """Measure for the next :data:`IDLE_S` seconds."""
        self._until = time.monotonic() + IDLE_S
        if self._timer is None:
            self._start()

    def stop(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + INTERVAL_S
        self._timer = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self.last = max(0.0, asyncio.get_running_loop().time() - self._due)
        self.histogram.observe(self.last)
        self._timer = None
        if time.monotonic() < self._until:
            self._start()
