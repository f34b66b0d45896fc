"""Return freed memory to the system.

The C library keeps freed memory for later: after a burst of requests the host would look large for ever, and the budget
would have nothing left for workers.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


def trim_heap() -> None:
    """Return the free memory of all arenas to the system (glibc); elsewhere nothing happens."""
    import ctypes  # a megabyte that an idle host does not need: loaded after the first burst

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        log.debug("malloc_trim is missing in this C library")
