"""Threads of the host's process for work that waits: files, control groups, names of machines."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

THREADS = 4
REFUSED = "can't start new thread"
"""Text of the ``RuntimeError`` at the limit of processes (``ulimit -u``)."""


def start_threads() -> ThreadPoolExecutor:
    """Return a pool with all its threads: at the limit of processes it continues to work.

    A pool that starts them on demand fails then, although it has idle ones a moment later. Raises ``RuntimeError``.
    """
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="host")
    barrier = threading.Barrier(THREADS + 1)
    try:
        for _ in range(THREADS):
            pool.submit(barrier.wait)
    except RuntimeError:
        barrier.abort()
        raise
    barrier.wait()
    return pool


def is_refused(error: BaseException) -> bool:
    """Return whether the system has refused a thread."""
    return isinstance(error, RuntimeError) and error.args == (REFUSED,)
