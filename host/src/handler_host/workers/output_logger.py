"""Log the output of a worker, line by line, under the handler's name.

The length of a line and the number of lines per second are bounded, so a plugin that floods its standard
output exhausts neither the host's memory nor its log.
"""

from __future__ import annotations

import asyncio
import logging
import os

MAX_LINE = 8 * 1024
"""Bytes at which a line is cut."""


class OutputLogger:
    """Logger of the pipe ``fd``, which it owns and reads until it is closed; ``fd`` -1 means no pipe."""

    def __init__(self, fd: int, handler: str, lines_per_second: int) -> None:
        self._fd = fd
        self._log = logging.getLogger(f"handler.{handler}")
        self._fields = {"handler": handler, "logger": "output"}
        self._lines_per_second = lines_per_second
        self._lines_left = lines_per_second
        self._suppressed = 0
        self._second = 0
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        if fd >= 0:
            os.set_blocking(fd, False)
            self._loop.add_reader(fd, self._read)

    def close(self) -> None:
        """Log the available output and stop, also if another process still holds the write end."""
        if self._fd < 0:
            return
        self._read()
        if self._fd >= 0:
            self._end()

    def _end(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        if self._rest:
            self._log_line(self._rest)
            self._rest = b""
        self._log_suppressed()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._log_line(line)
        while len(rest) > MAX_LINE:
            self._log_line(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._rest = rest

    def _log_line(self, line: bytes) -> None:
        second = int(self._loop.time())
        if second != self._second:
            self._log_suppressed()
            self._second, self._lines_left = second, self._lines_per_second
        if self._lines_left <= 0:
            self._suppressed += 1
            return
        text = line[:MAX_LINE].decode("utf-8", "backslashreplace").rstrip()
        if text:
            self._lines_left -= 1
            self._log.info("%s", text, extra={"fields": self._fields})

    def _log_suppressed(self) -> None:
        if self._suppressed:
            self._log.warning("%d more lines of output suppressed", self._suppressed, extra={"fields": self._fields})
            self._suppressed = 0
