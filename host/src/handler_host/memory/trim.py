"""Return freed memory to the system.

The C library keeps freed memory for later: after a burst of requests the host would look large for ever, and the budget
would have nothing left for workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

REST_S = 0.5
"""Time after the end of a burst in which its last memory is freed."""
M_ARENA_MAX = -8
"""Parameter of ``mallopt``: most heaps of one process."""


class HeapTrimmer:
    """Trim of the heap when a burst is over, at most once in :data:`REST_S` seconds.

    It is left out if ``is_busy`` returns True then.
    """

    def __init__(self, is_busy: Callable[[], bool] = lambda: False) -> None:
        self._is_busy = is_busy
        self._timer: asyncio.TimerHandle | None = None

    def schedule(self) -> None:
        """Trim the heap in :data:`REST_S` seconds."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REST_S, self._trim)

    def _trim(self) -> None:
        self._timer = None
        if not self._is_busy():
            trim_heap()


def trim_heap() -> None:
    """Return the free memory of all arenas to the system (glibc); elsewhere nothing happens."""
    import ctypes  # a megabyte that an idle host does not need: loaded after the first burst

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        log.debug("malloc_trim is missing in this C library")


def use_one_heap() -> None:
    """Make threads that start from now on allocate from the heap of the process (glibc); elsewhere nothing happens.

    A heap of its own, which a thread would get, keeps what a burst has left between a few small objects.
    """
    import ctypes

    try:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    except (AttributeError, OSError):
        log.debug("mallopt is missing in this C library")
