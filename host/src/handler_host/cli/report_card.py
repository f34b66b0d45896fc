"""The rows of ``handler-host check``."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Mark(enum.Enum):
    """How serious a row is."""

    OK = "ok"
    NOTE = "note"
    """A figure, or something that could not be looked at."""
    WARNING = "warning"
    """Works, and will annoy somebody."""
    PROBLEM = "problem"
    """Does not work; the plugin is not fit."""


class Row(NamedTuple):
    """One thing that was looked at."""

    mark: Mark
    place: str
    """``wheel``, ``discovery``, ``tests``, or a handler."""
    text: str
    """What was seen and, where it is not well, the remedy."""

    def to_json(self) -> dict[str, str]:
        """Return it for programs."""
        return {"mark": self.mark.value, "place": self.place, "text": self.text}
