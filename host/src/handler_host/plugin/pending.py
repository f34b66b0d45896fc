"""Work that a handler still has to do: a note in its data directory, which outlives its worker.

A handler that has taken something it has not delivered yet says so with
``Context.pending``. The note is a file, so that it is there after a crash of the
worker, of the host, or of the machine; the host reads it to activate the handler
again by itself, and to tell in ``/health/ready`` how much waits.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

FILE_NAME = ".pending"
"""In the directory of the handler."""

INTERVAL = 5.0
"""Seconds between two looks at the notes."""


class Note(msgspec.Struct, frozen=True):
    """What one handler has told."""

    count: int
    """How many things wait, of whatever it delivers."""
    due: float
    """When it wants to be activated, in seconds since the epoch: the note outlives the machine's monotonic clock."""


def write(directory: Path, count: int, wake_after: float) -> None:
    """Note that ``count`` things wait, and that the handler wants a worker in ``wake_after`` seconds; 0 removes it."""
    path = directory / FILE_NAME
    if count <= 0:
        path.unlink(missing_ok=True)
        return
    # Renamed, so that a reader never sees half of it.
    part = directory / f"{FILE_NAME}.part"
    part.write_bytes(msgspec.json.encode(Note(count, time.time() + wake_after)))
    os.replace(part, path)


def read(root: Path) -> dict[str, Note]:
    """Return the notes of all handlers under the data directory; what is no note is none."""
    notes: dict[str, Note] = {}
    try:
        names = os.listdir(root)
    except OSError:
        return notes
    for name in names:
        with suppress(OSError, msgspec.DecodeError):
            notes[name] = msgspec.json.decode((root / name / FILE_NAME).read_bytes(), type=Note)
    return notes


async def watch(root: Path, wake: Callable[[str], None]) -> None:
    """Call ``wake`` with the name of each handler whose work is due, again and again.

    At first all are: why an earlier host was to wait may have passed with it.
    """
    now = math.inf
    while True:
        notes = await asyncio.to_thread(read, root)
        for name, note in notes.items():
            if note.due <= now:
                wake(name)
        await asyncio.sleep(INTERVAL)
        now = time.time()
