"""Report on how and why a worker exited."""

from __future__ import annotations

import msgspec


class ExitReport(msgspec.Struct, frozen=True, kw_only=True):
    """How and why the last worker of a handler exited."""

    kind: str
    """A value of ``handler_host.workers.events.Cause``."""
    text: str
    at: str
    """Time of day, ISO 8601 in UTC."""
    generation: int
    code: int | None = None
    signal: int | None = None
    pss: int | None = None
    """Bytes of PSS at the last measurement before the worker was stopped."""
    given_back: int | None = None
    """Bytes of it that were the worker's alone, and that its exit therefore freed."""
