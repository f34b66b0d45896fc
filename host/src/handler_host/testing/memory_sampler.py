"""Sees where in a plugin's own code something happens that ``handler-host check`` tells of.

What a plugin opens is told by the interpreter's audit events, what it prints by the
standard output that is put in place of the real one.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

EVENTS = {
    "socket.__new__": "socket",
    "os.fork": "process",
    "os.forkpty": "process",
    "os.posix_spawn": "process",
    "subprocess.Popen": "process",
}
"""Audit events, and what each of them opens."""
LOOK = 0.05
"""Seconds between two looks at what the main thread does."""


class Witness:
    """Knows the files of a plugin, the directories ``roots`` of it, and which line of them is at work."""

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = tuple(root.rstrip(os.sep) + os.sep for root in roots)
        self._opening = False
        self.opened: dict[str, str] = {}
        """``thread``, ``socket`` or ``process`` to where the first one was opened."""
        sys.addaudithook(self._hear)
        start = threading.Thread.start

        def noted(thread: threading.Thread) -> None:
            self._note("thread", sys._getframe(1))
            start(thread)

        # Of threads there is an audit event from Python 3.12 on only.
        threading.Thread.start = noted  # type: ignore[assignment, method-assign]

    def listen(self, opening: bool) -> None:
        """Take note of what is opened from now on, or no more."""
        self._opening = opening

    def place(self, frame: FrameType | None) -> str | None:
        """Return ``file:line`` of the plugin's own code that has led to this frame, or None."""
        while frame is not None:
            if frame.f_code.co_filename.startswith(self._roots):
                return f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        return None

    def _hear(self, event: str, _arguments: Any) -> None:
        if event in EVENTS:
            self._note(EVENTS[event], sys._getframe(1))

    def _note(self, what: str, frame: FrameType) -> None:
        place = self.place(frame) if self._opening and what not in self.opened else None
        if place is not None:
            self.opened[what] = place


class Spoken(io.TextIOBase):
    """Standard output for a plugin: passes on to standard error, and keeps the first words and their place."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self.first: str | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str, /) -> int:
        """Pass on."""
        if self.first is None and text.strip():
            place = self._witness.place(sys._getframe(1))
            self.first = f"{text.strip()[:60]!r}{f' ({place})' if place is not None else ''}"
        return sys.stderr.write(text)


class Sampler:
    """Looks at the main thread from another one: where it is while the loop does not turn."""

    def __init__(self, witness: Witness, patience: float) -> None:
        self.place: str | None = None
        """Where it was when it had been busy for ``patience`` seconds for the first time."""
        self._witness = witness
        self._patience = patience
        self._turned = time.monotonic()
        self._main = threading.main_thread().ident
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def turn(self) -> None:
        """Take note that the loop turns."""
        self._turned = time.monotonic()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while self.place is None and not self._ended.wait(LOOK):
            if time.monotonic() - self._turned > self._patience:
                self.place = self._witness.place(sys._current_frames().get(self._main or 0))
