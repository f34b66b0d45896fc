"""Keep the standard streams usable if they are closed, or cannot be written."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_closed_streams() -> None:
    """Open ``/dev/null`` in place of each standard stream that is closed (``>&-`` in a shell).

    Otherwise the next sockets of the process get the free descriptors, and a library that prints writes to a
    client; and Python's own ``sys.stdout`` is None. Call it before anything else opens a file.
    """
    for fd, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free descriptor, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115 - it lives as long as the process


def discard_output(stream: TextIO | None = None) -> None:
    """Send standard output, or ``stream``, to ``/dev/null`` after a failed write.

    Otherwise Python fails again when it exits, with status 120.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, (stream or sys.stdout).fileno())
    os.close(null)


def flush_errors() -> None:
    """Flush standard error, and discard what cannot be written: the reader of the log may be gone."""
    try:
        sys.stderr.flush()
    except OSError:
        discard_output(sys.stderr)
