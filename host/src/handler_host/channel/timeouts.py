"""Timeouts of one call."""

from __future__ import annotations

from typing import NamedTuple


class CallTimeouts(NamedTuple):
    """Limits of one call in seconds; None means unlimited.

    ``total`` bounds a response that is not a stream. A stream is bounded by ``first_byte`` until its
    first chunk, and by ``gap`` between two chunks.
    """

    total: float | None
    first_byte: float | None
    gap: float | None
