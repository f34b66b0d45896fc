"""Log records of one worker, passed on a few in each turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from handler_host.channel import frames

RECORDS_PER_TURN = 50
"""Most records in a turn (below 10 ms); a flooding worker sends thousands in one read."""


class LogPacer:
    """Records that wait for ``log``, in their order; the limit on records per second bounds their number."""

    def __init__(self, log: Callable[[frames.Log], None]) -> None:
        self._log = log
        self._waiting: deque[frames.Log] = deque()
        self._left_in_turn = RECORDS_PER_TURN

    def add(self, record: frames.Log) -> None:
        """Log a record now, or in a later turn if this one has logged its part."""
        if not self._left_in_turn:
            self._waiting.append(record)
            return
        if self._left_in_turn == RECORDS_PER_TURN:
            asyncio.get_running_loop().call_soon(self._start_turn)
        self._left_in_turn -= 1
        self._log(record)

    def _start_turn(self) -> None:
        self._left_in_turn = RECORDS_PER_TURN
        while self._waiting and self._left_in_turn:
            self.add(self._waiting.popleft())
