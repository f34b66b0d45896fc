"""What the host tells of itself: the JSON of the admin routes, as frozen types.

Sizes are bytes, durations seconds; a time of day is ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any

import msgspec


class _Report(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all reports."""


class OperationReport(_Report, frozen=True, kw_only=True):
    """One operation; the schemas are known once the handler was active."""

    name: str
    summary: str = ""
    streams: bool | None = None
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None


class ExitReport(_Report, frozen=True, kw_only=True):
    """How and why the last worker of a handler ended."""

    kind: str
    """One of ``host.lifecycle.Cause``."""
    text: str
    at: str
    generation: int
    code: int | None = None
    signal: int | None = None
    pss: int | None = None
    """What it took when it was last measured: the bytes that its end gave back."""


class HandlerStatus(_Report, frozen=True, kw_only=True):
    """One handler, active or not."""

    name: str
    state: str
    reason: str | None
    """Why it is in this state, where that is not the normal course of things."""
    distribution: str
    version: str
    title: str
    description: str
    operations: list[OperationReport] | None
    """None: not known before the first activation, as the handler has no manifest."""
    isolation: str
    python: str | None
    """The interpreter of the handler's own environment; None: it runs in the host's."""
    pin: bool
    generation: int = 0
    pid: int | None = None
    pss: int | None = None
    learned_pss: int | None = None
    in_flight: int = 0
    queued: int = 0
    idle_for: float | None = None
    expires_in: float | None = None
    retry_in: float | None = None
    dispatches: int = 0
    """Admitted since the host's start."""
    error_rate: float | None = None
    """Which share of the last 256 dispatches failed, without those that were the client's fault."""
    median_seconds: float | None = None
    """Of the last 256 dispatches, from the request to the last byte; ``p99_seconds``: the 99th percentile."""
    p99_seconds: float | None = None
    last_exit: ExitReport | None = None


class LoadReceipt(_Report, frozen=True, kw_only=True):
    """The answer to a load: the handler is active now."""

    handler: str
    generation: int
    pid: int
    already: bool
    """It was active before."""
    activate_seconds: float
    pss_before: int
    """PSS of the host and all its processes."""
    pss_after: int


class UnloadReceipt(_Report, frozen=True, kw_only=True):
    """The answer to an unload: the process is gone now."""

    handler: str
    generation: int | None
    """The generation that went; None if there was none."""
    was: str
    """The state in which the unload found the handler."""
    bytes_given_back: int
    pss_before: int
    """PSS of the host and all its processes."""
    pss_after: int
    drained: int
    """Dispatches that were under way and came to their end."""
    killed: int
    """Dispatches that were ended with an error."""
    seconds: float
    exit: str | None
    """How the process ended."""


class RescanReport(_Report, frozen=True, kw_only=True):
    """What a rescan changed, by handler name."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    problems: dict[str, str]
    """The handlers that cannot run, with the reason."""
    warnings: list[str]


class WorkerMemory(_Report, frozen=True, kw_only=True):
    """Memory of one worker."""

    pid: int
    generation: int
    pss: int
    uss: int
    rss: int
    peak: int
    """The highest PSS seen of this generation."""


class MemoryReport(_Report, frozen=True, kw_only=True):
    """Memory of the host and all its processes, against the limit."""

    limit: int
    limit_source: str
    usable: int
    """The limit less the headroom."""
    used: int
    reserved: int
    """Promised to activations under way, beyond what they use already."""
    host: int
    fork_server: int | None
    """None while there is no fork server."""
    fork_server_pids: list[int]
    workers: dict[str, WorkerMemory]
    learned: dict[str, int]
    """The highest PSS ever seen of each handler."""
    evictable: list[str]
    """The handlers that are idle, in the order in which they would be unloaded for another one's memory."""
    measure: str
    """What the figures are: ``pss``, or ``uss`` or ``rss`` where the system has no PSS."""
