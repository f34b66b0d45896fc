"""The writer's view of a spreadsheet, and the errors of its calls."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from handler_host.plugin import (
    HostError,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from sheets.schema import Cells, Drift, Layout, Tab


class Effect(enum.Enum):
    """Known effect of a failed call."""

    NONE = "none"
    """It had no effect: it was refused, or never sent."""
    ANSWERED = "answered"
    """The response is an error that leaves the effect open; any effect is visible by now."""
    UNKNOWN = "unknown"
    """The response is missing; the call may still take effect."""


Trouble = Literal["limit", "overload", "unreachable", "timeout", "auth", "missing", "refused", "full", "failed"]

_ERRORS: dict[Trouble, type[UpstreamError]] = {
    "limit": UpstreamRateLimited,
    "overload": UpstreamOverloaded,
    "unreachable": UpstreamUnreachable,
    "timeout": UpstreamTimeout,
    "auth": UpstreamAuth,
    "missing": UpstreamBadRequest,
    "refused": UpstreamBadRequest,
    "full": UpstreamBadRequest,
    "failed": UpstreamError,
}


class BookError(Exception):
    """Failed call to Google; ``retry_after`` is in seconds, None if Google names no time."""

    def __init__(
        self, trouble: Trouble, message: str, *, effect: Effect = Effect.NONE, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.trouble = trouble
        self.message = message
        self.effect = effect
        self.retry_after = retry_after

    def for_clients(self) -> HostError:
        """Return the error for the dispatch."""
        return _ERRORS[self.trouble](self.message, retry_after=self.retry_after)


@dataclass(frozen=True)
class Look:
    """Layout of a worksheet and, on request, the rows of its keys."""

    layout: Layout
    rows: Mapping[str, int] | None
    """Key → number of its row in the sheet, from 1; None if keys were not requested."""


class Book(Protocol):
    """A spreadsheet with the three tabs. Every method raises :class:`BookError`."""

    async def look(self, keys: Mapping[str, bool]) -> dict[str, Look | Drift]:
        """Read the first rows of these tabs (``users`` …), and all keys of those with True."""

    async def rows(self, tabs: Sequence[str]) -> dict[str, list[Cells] | Drift]:
        """Read whole tabs, in one call."""

    async def tail(self, limit: int) -> list[Cells]:
        """Read the last rows of the log; raises :class:`Drift`, too."""

    async def turn(self) -> None:
        """Wait until the quota allows one of the calls below, and count it."""

    async def append(self, tab: Tab, layout: Layout, rows: Sequence[Cells]) -> None:
        """Add rows below all others, in one call."""

    async def update(self, changes: Sequence[tuple[Layout, int, Cells]]) -> None:
        """Set cells of existing rows, in one call."""

    async def delete(self, rows: Sequence[tuple[Tab, int]]) -> None:
        """Delete rows, in one call."""
