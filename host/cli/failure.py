"""What ends a command."""

from __future__ import annotations


class Failure(Exception):
    """A command has failed: its message goes to standard error, ``status`` is the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
