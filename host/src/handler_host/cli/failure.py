"""What ends a command, and the exit status that tells programs of it."""

from __future__ import annotations

from typing import Any

OK = 0
REFUSED = 1
"""The host said no."""
USAGE = 2
"""Wrong arguments, environment or configuration; nothing was done."""
UNREACHABLE = 3
"""There is no host at the URL, or none that can be understood."""
INTERRUPTED = 130
"""Ctrl-C."""


class Failure(Exception):
    """A command has failed: its message goes to standard error, ``status`` is the exit status.

    ``envelope`` is the host's own JSON of the error, where it was the host that refused.
    """

    def __init__(self, message: str, status: int = REFUSED, envelope: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.envelope = envelope
