"""The turn to compute, and the memory of the weights between two turns."""

from __future__ import annotations

import asyncio
import mmap
import re
import sys
from contextlib import suppress
from pathlib import Path

from gpt_e.zero_pages import advise

IDLE_S = 5.0
"""Seconds without a request after which the pages of the weights are dropped."""
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r--[ps] \S+ \S+ \d+ +(.*)\n")


class Turn:
    """The turn to compute: for one request at a time, as two of them on one core are slower than one after the other.

    The weights are pages of their file, which the kernel keeps in its cache: dropped from this process
    they are back with the next request, at the cost of a page fault each (about 1 % of a short response).
    """

    def __init__(self, weights: Path) -> None:
        self._weights = weights
        self._semaphore = asyncio.Semaphore(1)
        self._idle_timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._semaphore.acquire()
        self.stop_timer()

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.release()
        self.stop_timer()
        self._idle_timer = asyncio.get_running_loop().call_later(IDLE_S, drop_file_pages, self._weights)

    def stop_timer(self) -> None:
        """Keep the pages that are there."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None


def drop_file_pages(path: Path) -> int:
    """Drop the pages of a file that this process has mapped and cannot write to; return the bytes of its mappings.

    A thread that reads them meanwhile gets them again.
    """
    if sys.platform != "linux":
        return 0
    dropped = 0
    name = str(path.resolve())
    with suppress(OSError), open("/proc/self/maps") as maps:
        for match in map(_MAPPING.fullmatch, maps):
            if match is not None and match[3] == name:
                start, end = int(match[1], 16), int(match[2], 16)
                if advise(start, end - start, mmap.MADV_DONTNEED):
                    dropped += end - start
    return dropped
