"""The host as the metrics read it: protocols, so that telemetry imports neither supervisor nor controllers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class HandlerView(Protocol):
    """The present state of one handler."""

    @property
    def name(self) -> str:
        """The handler's name."""

    @property
    def state(self) -> str:
        """The state that users see: ``cold``, ``active``, ``idle`` and so on."""

    @property
    def in_flight(self) -> int:
        """Dispatches in flight."""

    @property
    def queued(self) -> int:
        """Dispatches in its queue."""

    @property
    def workers(self) -> Sequence[object]:
        """Its workers."""


class WorkerMemoryView(Protocol):
    """The memory of one worker."""

    @property
    def pss(self) -> int:
        """Bytes of PSS."""


class MemoryView(Protocol):
    """The last memory measurement, in bytes of PSS."""

    @property
    def host(self) -> int:
        """The host's own process."""

    @property
    def fork_server(self) -> int | None:
        """The fork server; None while none runs."""

    @property
    def workers(self) -> Mapping[str, WorkerMemoryView]:
        """The workers, by handler."""

    @property
    def learned(self) -> Mapping[str, int]:
        """The highest measurement of each handler's workers."""

    @property
    def limit(self) -> int:
        """The limit of all processes together."""

    @property
    def usable(self) -> int:
        """The limit less the headroom."""

    @property
    def used(self) -> int:
        """The use of all processes together."""

    @property
    def reserved(self) -> int:
        """Reserved beyond the present use."""


class HostView(Protocol):
    """A running host."""

    @property
    def draining(self) -> bool:
        """Whether the host rejects new work."""

    def statuses(self) -> Sequence[HandlerView]:
        """Return the state of every handler, by name."""

    def last_memory(self) -> MemoryView:
        """Return the last memory measurement."""
