"""Report on how and why a worker ended."""

from __future__ import annotations

import msgspec


class ExitReport(msgspec.Struct, frozen=True, kw_only=True):
    """How and why the last worker of a handler ended."""

    kind: str
    """One of ``handler_host.lifecycle.state.Cause``."""
    text: str
    at: str
    generation: int
    code: int | None = None
    signal: int | None = None
    pss: int | None = None
    """What it took when it was last measured before it was told to go."""
    given_back: int | None = None
    """What of that was its own alone: the bytes that its end gave back."""
