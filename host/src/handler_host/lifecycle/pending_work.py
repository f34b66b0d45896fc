"""Activates handlers that have pending work (``handler_host.plugin.pending``) and that no dispatch will activate."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from handler_host._internal.small_file import read_small_file
from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.events import PendingWorkDue
from handler_host.plugin.pending import FILE_NAME, Note

MAX_NOTE_BYTES = 4096
INTERVAL_S = 5.0
"""Seconds between two reads of the notes."""


class PendingWorkScheduler:
    """Reads the notes under ``root``, the data directory, if there is one.

    ``is_draining`` returns whether the host refuses new work.
    """

    def __init__(
        self, root: Path | None, controllers: Mapping[str, HandlerController], is_draining: Callable[[], bool]
    ) -> None:
        self._root = root
        self._controllers = controllers
        self._is_draining = is_draining
        self._due_times: dict[str, tuple[float, float]] = {}
        """By handler: the time of its note, and the same on the monotonic clock from the first look on."""

    async def run(self) -> None:
        """Activate each handler whose work is due, until cancelled.

        The first time all are due: the reason why an earlier host was to wait may have gone with it.
        """
        if self._root is None:
            return
        is_first = True
        while True:
            notes = await asyncio.to_thread(_read_notes, self._root)
            for name, note in notes.items():
                if self.is_due(name, note, time.time(), time.monotonic()) or is_first:
                    self.wake(name)
            is_first = False
            await asyncio.sleep(INTERVAL_S)

    def is_due(self, name: str, note: Note, now: float, monotonic: float) -> bool:
        """Return whether a note is due on either clock: a wall clock that is set back must not delay it."""
        due, due_monotonic = self._due_times.get(name, (None, 0.0))
        if due != note.due:
            due_monotonic = monotonic + note.due - now
            self._due_times[name] = note.due, due_monotonic
        return note.due <= now or due_monotonic <= monotonic

    def wake(self, name: str) -> None:
        """Activate a handler if memory is available without an eviction."""
        controller = self._controllers.get(name)
        if controller is not None and controller.entry.problem is None and not self._is_draining():
            controller.post(PendingWorkDue())

    async def counts(self) -> dict[str, int]:
        """Return the amount of pending work by handler, active or not, without those that have none."""
        if self._root is None:
            return {}
        notes = await asyncio.to_thread(_read_notes, self._root)
        return {name: notes[name].count for name in sorted(notes) if name in self._controllers}


def _read_notes(root: Path) -> dict[str, Note]:
    """Return the notes of all handlers under the data directory; invalid ones are left out."""
    notes: dict[str, Note] = {}
    try:
        names = os.listdir(root)
    except OSError:
        return notes
    for name in names:
        # ValueError: a name or a text that is not UTF-8.
        with suppress(OSError, msgspec.MsgspecError, ValueError, RecursionError):
            notes[name] = msgspec.json.decode(read_small_file(root / name / FILE_NAME, MAX_NOTE_BYTES), type=Note)
    return notes
