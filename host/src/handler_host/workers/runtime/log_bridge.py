"""The log of a worker: its records travel to the host, which writes them under the handler's name."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable

from handler_host.channel import frames

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
"""The request that is being served, for the records that it writes."""

LOG_RECORDS_PER_SECOND = 500
"""Log records of a handler that reach the host; more are counted."""

MAX_LOG_MESSAGE = 16 * 1024
"""Characters at which a log message is cut."""


class LogBridge(logging.Handler):
    """Sends log records to the host, a bounded number in a second."""

    def __init__(self, send: Callable[[frames.Log], None]) -> None:
        super().__init__()
        self._to_host = send
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._second = 0
        self._left = LOG_RECORDS_PER_SECOND
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, from whatever thread it comes."""
        second = int(time.monotonic())
        if second != self._second:
            if self._dropped:
                self._send(frames.Log(logging.WARNING, "handler", f"{self._dropped} more log records suppressed"))
            self._second, self._left, self._dropped = second, LOG_RECORDS_PER_SECOND, 0
        if self._left <= 0:
            self._dropped += 1
            return
        self._left -= 1
        try:
            message = self.format(record)[:MAX_LOG_MESSAGE]
        except Exception:  # noqa: BLE001 - a record may hold anything
            self.handleError(record)
            return
        self._send(frames.Log(record.levelno, record.name, message, request_id.get()))

    def _send(self, frame: frames.Log) -> None:
        if threading.get_ident() == self._thread:
            self._to_host(frame)
        else:
            self._loop.call_soon_threadsafe(self._to_host, frame)
