"""Status structs of handlers and memory: the JSON of the admin routes, as frozen types.

Sizes are bytes, durations seconds; a time of day is ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any

import msgspec

from handler_host.workers.exit_report import ExitReport


class _Report(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all reports."""


class OperationReport(_Report, frozen=True, kw_only=True):
    """One operation; the schemas are known once the handler was active."""

    name: str
    summary: str = ""
    streams: bool | None = None
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None


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
    """Of the last 256 dispatches, from request to last byte, activation included; ``p99_seconds``: 99th percentile."""
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
    """``given_back`` of the generation's :class:`ExitReport`; 0 if there was none, or it was never measured."""
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


class CheckReport(_Report, frozen=True, kw_only=True):
    """One thing that the check of a deploy has looked at."""

    name: str
    """``catalog``, ``fork server``, or a handler's name."""
    ok: bool
    text: str


class VerifyReport(_Report, frozen=True, kw_only=True):
    """The check of a deploy."""

    state: str
    """``running``, ``passed``, ``failed``, or ``skipped``: the commit was verified before."""
    commit: str | None
    checks: list[CheckReport] = []
    seconds: float = 0.0
    host_bytes: int = 0
    """What the host's own process takes more than before."""


class WorkerMemory(_Report, frozen=True, kw_only=True):
    """Memory of one worker."""

    pid: int
    generation: int
    pss: int
    uss: int
    rss: int
    peak: int
    """The highest PSS seen of this generation."""


class HandlerMemory(_Report, frozen=True, kw_only=True):
    """What is known of one handler's memory, active or not."""

    state: str
    pin: bool
    pss: int | None
    """Now; None without a worker."""
    peak: int | None
    """The most that this generation took."""
    counted: int
    """What the budget counts for it: the larger of what it takes and what it was promised."""
    expected: int
    """What its next activation reserves."""
    expected_source: str
    """``learned``, ``configured``, ``manifest`` or ``default``."""
    learned_peak: int | None
    """The most that a worker of this version took, its activation included."""
    learned_steady: int | None
    """The most that a ready one took."""
    activate_seconds: float | None
    stop_seconds: float | None
    out_of_memory: int
    """How often a worker of this version was killed for memory."""
    soft_limit: int | None
    hard_limit: int | None
    last_exit: ExitReport | None


class Eviction(_Report, frozen=True, kw_only=True):
    """An idle handler that may be unloaded for another."""

    handler: str
    generation: int
    size: int
    """What that makes free."""
    idle_for: float


class WaitingForMemory(_Report, frozen=True, kw_only=True):
    """An activation that waits for room."""

    handler: str
    amount: int
    waited: float


class Pressure(_Report, frozen=True, kw_only=True):
    """What the kernel tells of a shortage."""

    short: bool
    """Idle handlers are being unloaded, and activations wait."""
    stalled_share: float
    """Share of the time between the last two looks in which tasks waited for memory."""
    threshold: float | None
    stalled_source: str | None
    kills: int | None
    """Processes killed for memory since the kernel counts."""
    kills_source: str | None


class Sampling(_Report, frozen=True, kw_only=True):
    """What measuring costs."""

    cost: float
    """Seconds of processor time for one measurement."""
    every: float
    share: float
    """Of one processor."""


class MemoryReport(_Report, frozen=True, kw_only=True):
    """Memory of the host and all its processes, against the limit."""

    limit: int
    limit_source: str
    limit_path: str | None
    """The file that it was read from."""
    headroom: int
    usable: int
    """The limit less the headroom."""
    used: int
    reserved: int
    """Promised beyond what is used already: to activations, and to workers that took more before."""
    others: int
    """Held by others in the limiting control group, or by the kernel for these processes."""
    room: int
    """What can still be promised; negative where there is too much already."""
    host: int
    fork_server: int | None
    """None while there is no fork server."""
    fork_server_pids: list[int]
    workers: dict[str, WorkerMemory]
    handlers: dict[str, HandlerMemory]
    learned: dict[str, int]
    """The most that a worker of each handler took."""
    evict_next: list[Eviction]
    """Who may go for another, least recently used first."""
    waiting: list[WaitingForMemory]
    refused: int
    """Activations that got no room since the start."""
    pressure: Pressure
    sampling: Sampling
    state_file: str | None
    """Where is kept what was learned."""
    measure: str
    """What the figures are: ``pss``, or ``uss`` or ``rss`` where the system has no PSS."""
