"""Handler of the process's log that writes the lines of one turn of the event loop together."""

from __future__ import annotations

import asyncio
import logging
import select
from contextlib import suppress
from typing import TextIO


class LineHandler(logging.Handler):
    """Handler that writes whole lines to a stream, several of them at once in an event loop.

    A line below a warning waits for the end of the loop's turn, so that many requests at a time share one write. All
    other lines are written at once, behind those that wait.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines = ""
        self._size_bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        """Loop that writes the waiting lines at the end of its turn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or keep it for the end of the turn (logging)."""
        try:
            line = f"{self.format(record)}\n"
            size_bytes = len(line.encode(errors="backslashreplace"))
            if self._size_bytes + size_bytes > select.PIPE_BUF:  # the kernel mixes longer writes of several processes
                self.flush()
            self._lines += line
            self._size_bytes += size_bytes
            loop = _running_loop() if record.levelno < logging.WARNING else None
            if loop is None:
                self.flush()
            elif loop is not self._loop:
                self._loop = loop
                loop.call_soon(self._end_turn)
        except Exception:  # noqa: BLE001 - the log must not fail what it tells of
            self.handleError(record)

    def flush(self) -> None:
        """Write the lines that wait (logging, also at the end of the process)."""
        self.acquire()
        try:
            lines, self._lines, self._size_bytes = self._lines, "", 0
            if lines:
                self._stream.write(lines)
                self._stream.flush()
        finally:
            self.release()

    def close(self) -> None:
        """Write the lines that wait, and write no more (logging)."""
        self._end_turn()
        super().close()

    def _end_turn(self) -> None:
        self._loop = None
        with suppress(OSError, ValueError):  # a closed stream is a ValueError
            self.flush()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
