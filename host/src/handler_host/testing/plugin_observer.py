"""Observes a plugin from inside its process, for the report of ``handler-host check``.

Audit events of the interpreter report what the plugin opens, a replacement of standard output what it prints.
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

AUDIT_EVENTS = {
    "socket.__new__": "socket",
    "os.fork": "process",
    "os.forkpty": "process",
    "os.posix_spawn": "process",
    "subprocess.Popen": "process",
}
"""Audit events, and the kind of thing that each opens."""
SAMPLE_INTERVAL_S = 0.05


class PluginObserver:
    """Records what the files of a plugin, in the directories ``roots``, open, and on which line."""

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = tuple(root.rstrip(os.sep) + os.sep for root in roots)
        self._is_recording = False
        self.opened: dict[str, str] = {}
        """``thread``, ``socket`` or ``process`` to the place that opened the first one."""
        sys.addaudithook(self._handle_audit_event)
        start = threading.Thread.start

        def start_and_record(thread: threading.Thread) -> None:
            self._record("thread", sys._getframe(1))
            start(thread)

        # Threads have an audit event from Python 3.12 on only.
        threading.Thread.start = start_and_record  # type: ignore[assignment, method-assign]

    def record(self, enabled: bool) -> None:
        """Start or stop recording."""
        self._is_recording = enabled

    def place(self, frame: FrameType | None) -> str | None:
        """Return ``file:line`` of the innermost frame in the plugin's own code, or None."""
        while frame is not None:
            if frame.f_code.co_filename.startswith(self._roots):
                return f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        return None

    def _handle_audit_event(self, event: str, _arguments: Any) -> None:
        if event in AUDIT_EVENTS:
            self._record(AUDIT_EVENTS[event], sys._getframe(1))

    def _record(self, kind: str, frame: FrameType) -> None:
        place = self.place(frame) if self._is_recording and kind not in self.opened else None
        if place is not None:
            self.opened[kind] = place


class StdoutRecorder(io.TextIOBase):
    """Standard output for a plugin: forwards to standard error, and keeps the first text and its place."""

    def __init__(self, observer: PluginObserver) -> None:
        self._observer = observer
        self.first_output: str | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str, /) -> int:
        """Forward a text to standard error."""
        if self.first_output is None and text.strip():
            place = self._observer.place(sys._getframe(1))
            self.first_output = f"{text.strip()[:60]!r}{f' ({place})' if place is not None else ''}"
        return sys.stderr.write(text)


class MainThreadSampler:
    """Finds the line on which the main thread blocks the event loop, from another thread."""

    def __init__(self, observer: PluginObserver, threshold_s: float) -> None:
        self.place: str | None = None
        """The line when the loop had been blocked for ``threshold_s`` for the first time."""
        self._observer = observer
        self._threshold_s = threshold_s
        self._last_tick = time.monotonic()
        self._main = threading.main_thread().ident
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def tick(self) -> None:
        """Record that the loop runs."""
        self._last_tick = time.monotonic()

    def stop(self) -> None:
        """Stop sampling."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while self.place is None and not self._stopped.wait(SAMPLE_INTERVAL_S):
            if time.monotonic() - self._last_tick > self._threshold_s:
                self.place = self._observer.place(sys._current_frames().get(self._main or 0))
