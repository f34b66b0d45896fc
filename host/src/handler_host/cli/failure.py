"""Exit statuses, and the exception that ends a command with one of them."""

from __future__ import annotations

from typing import Any

OK = 0
REFUSED = 1
"""The host refused the request, or a check found a problem."""
USAGE = 2
"""Arguments, environment or configuration are wrong; nothing was done."""
UNREACHABLE = 3
"""No host answers at the address, or the server there is not a handler host."""
INTERRUPTED = 130
"""Ctrl-C."""


class Failure(Exception):
    """A command failed: the message goes to standard error, ``status`` is the exit status.

    ``envelope`` is the JSON of the host's error response, if the host refused the request.
    """

    def __init__(self, message: str, status: int = REFUSED, envelope: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.envelope = envelope

    @property
    def code(self) -> str | None:
        """The code of the host's error, if the host refused the request."""
        return None if self.envelope is None else str(self.envelope["error"]["code"])
