"""Connections that the system refuses: one line in the log, however many wait."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any

ACCEPT_FAILED = "socket.accept() out of system resource"
"""Message of asyncio; it tries again each second, more than a hundred times in a row."""
INTERVAL_S = 10.0
"""Seconds between two warnings."""

log = logging.getLogger(__name__)


def limit_accept_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Log at most one failure of ``accept`` in :data:`INTERVAL_S`; other errors of the loop are handled as before."""
    next_at = loop.time()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal next_at
        if context.get("message") != ACCEPT_FAILED:
            loop.default_exception_handler(context)
        elif loop.time() >= next_at:
            next_at = loop.time() + INTERVAL_S
            error = context["exception"]
            remedy = "raise ulimit -n" if error.errno in (errno.EMFILE, errno.ENFILE) else "free memory"
            log.warning("new connections must wait: %s; %s", error.strerror, remedy)

    loop.set_exception_handler(handle)
