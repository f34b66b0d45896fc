"""The note of a handler's pending work: a file in its data directory that outlives its worker.

A handler that has accepted something it has not delivered yet says so with
``Context.pending``. The note survives a crash of the worker, of the host and of the
machine; ``handler_host.lifecycle.pending_work`` reads it.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec

FILE_NAME = ".pending"
"""In the directory of the handler."""

_writing = threading.Lock()


class Note(msgspec.Struct):
    """The note of one handler."""

    count: int
    """Number of things that wait for delivery."""
    due: float
    """When the handler is to be activated, in seconds since the epoch: the note outlives the monotonic clock."""


def write(directory: Path, count: int, wake_after: float) -> None:
    """Note that ``count`` things wait, and that the handler needs a worker in ``wake_after`` seconds.

    The note is on disk when this returns; a count of 0 removes it. Raises OSError. It
    waits for the disk, and may be called from any thread.
    """
    path = directory / FILE_NAME
    with _writing:
        if count <= 0:
            # Not synced: a note that comes back after a crash only wakes a handler without work.
            path.unlink(missing_ok=True)
            return
        is_new = not path.exists()
        part = directory / f"{FILE_NAME}.part"
        with part.open("wb") as file:
            file.write(msgspec.json.encode(Note(count, time.time() + wake_after)))
            file.flush()
            # Before it gets its name, so that the note is never an empty file.
            os.fsync(file.fileno())
        part.replace(path)
        if is_new:
            # The directory may be new as well.
            for place in (directory, directory.parent):
                _sync_directory(place)


def _sync_directory(directory: Path) -> None:
    """Write the names in a directory to disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
