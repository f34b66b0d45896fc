"""Send the log records of a worker to the host, which logs them under the handler's name."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable

from handler_host.channel import frames

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
"""ID of the request that is served in this context; its log records carry it."""

LOG_RECORDS_PER_SECOND = 500
"""Log records per second that reach the host; further ones are counted and dropped."""

MAX_LOG_MESSAGE = 16 * 1024
"""Characters at which a log message is cut."""


class LogBridge(logging.Handler):
    """Logging handler that sends a bounded number of records per second to the host."""

    def __init__(self, send: Callable[[frames.Log], None]) -> None:
        super().__init__()
        self._send_frame = send
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._second = 0
        self._left = LOG_RECORDS_PER_SECOND
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; may run in any thread."""
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
        except Exception:  # noqa: BLE001 - formatting calls code of the plugin
            self.handleError(record)
            return
        self._send(frames.Log(record.levelno, record.name, message, request_id.get()))

    def _send(self, frame: frames.Log) -> None:
        if threading.get_ident() == self._thread:
            self._send_frame(frame)
        else:
            self._loop.call_soon_threadsafe(self._send_frame, frame)
