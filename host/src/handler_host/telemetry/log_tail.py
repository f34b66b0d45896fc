"""The last lines of each worker's log, for the handler's page of the dashboard."""

from __future__ import annotations

import logging
from collections import deque

from handler_host._internal.log import HANDLERS, TextFormatter

LINES = 50
"""Lines that are kept of each handler."""
MAX_TEXT = 1000
"""Characters at which a line is cut; a traceback is a part of its line."""


class LogTail(logging.Handler):
    """Keeps the last lines of each handler as the log has them: as text, with secrets masked."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TextFormatter())
        self._lines: dict[str, deque[str]] = {}

    def attach(self) -> None:
        """Keep the lines of all workers from now on."""
        logging.getLogger(HANDLERS.rstrip(".")).addHandler(self)

    def detach(self) -> None:
        """Keep no further lines."""
        logging.getLogger(HANDLERS.rstrip(".")).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line (logging)."""
        lines = self._lines.setdefault(record.name.removeprefix(HANDLERS), deque(maxlen=LINES))
        lines.append(self.format(record)[:MAX_TEXT])

    def lines(self, handler: str) -> list[str]:
        """Return the lines of a handler, oldest first."""
        return list(self._lines.get(handler, ()))
