"""The worker's watchdog: a host that is silent for too long counts as gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

TICKS = 10
"""Parts in which the time is counted."""


class Watchdog:
    """Calls ``on_silence`` when nothing has arrived for ``hang_after_s`` seconds, from :meth:`start` on.

    The time is counted in ticks of the event loop, not by the clock: after a pause of the whole container the host
    gets its turn before the worker ends.
    """

    def __init__(self, on_silence: Callable[[], None]) -> None:
        self.hang_after_s: float | None = None
        """None: never."""
        self._on_silence = on_silence
        self._silent_ticks = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to count; has no effect when it counts already."""
        if self._timer is None and self.hang_after_s is not None:
            self._schedule(self.hang_after_s)

    def reset(self) -> None:
        """Note a sign of the host."""
        self._silent_ticks = 0

    def stop(self) -> None:
        """Stop to count."""
        if self._timer is not None:
            self._timer.cancel()
        self.hang_after_s = self._timer = None

    def _schedule(self, hang_after_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(hang_after_s / TICKS, self._tick, hang_after_s)

    def _tick(self, hang_after_s: float) -> None:
        self._silent_ticks += 1
        if self._silent_ticks <= TICKS:
            self._schedule(hang_after_s)
            return
        logging.getLogger(__name__).warning("no heartbeat of the host for %g s (workers.hang_after)", hang_after_s)
        self._on_silence()
