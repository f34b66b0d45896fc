"""Progress of steps that take longer than two seconds, on standard error.

A terminal shows one line with the elapsed time, which disappears when the step ends. Without a
terminal the step is printed, and again when it has changed, so that a log shows what the command waits for.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from handler_host._internal.units import format_duration
from handler_host.cli.render import note, sanitize

DELAY_S = 2.0
"""A step that ends within this time shows nothing."""
INTERVAL_S = 1.0
LOG_INTERVAL_S = 20.0
"""Least time between two lines without a terminal."""
_ERASE_LINE = "\r\033[K"


class Progress:
    """What a command does now; the block changes ``step`` while it runs."""

    def __init__(self, step: str) -> None:
        self.step = step


@contextlib.contextmanager
def show_progress(step: str) -> Iterator[Progress]:
    """Show ``step`` while the block runs longer than :data:`DELAY_S`."""
    finished = threading.Event()
    progress = Progress(step)
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown", None)
    target = _update_line if is_terminal else _print_changes
    thread = threading.Thread(target=target, args=(progress, finished), name="progress", daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        finished.set()
        thread.join()


def _print_changes(progress: Progress, finished: threading.Event) -> None:
    shown, delay_s = "", DELAY_S
    while not finished.wait(delay_s):
        if progress.step != shown:
            shown, delay_s = progress.step, LOG_INTERVAL_S
            note(f"{sanitize(shown)} …")


def _update_line(progress: Progress, finished: threading.Event) -> None:
    started_at = time.monotonic()
    if finished.wait(DELAY_S):
        return
    while True:
        _write_line(f"{sanitize(progress.step)} … {format_duration(float(int(time.monotonic() - started_at)))}")
        if finished.wait(INTERVAL_S):
            break
    _write(_ERASE_LINE)


def _write_line(text: str) -> None:
    import shutil

    width = shutil.get_terminal_size().columns - 1
    _write(_ERASE_LINE + (text if len(text) <= width else text[: width - 1] + "…"))


def _write(text: str) -> None:
    # What the terminal cannot encode must not end the command.
    encoding = sys.stderr.encoding
    sys.stderr.write(text.encode(encoding, "replace").decode(encoding))
    sys.stderr.flush()
