"""Status and receipts of handlers and memory: the JSON of the admin routes, as frozen types.

Sizes are in bytes, durations in seconds; a time of day is ISO 8601 in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from handler_host.config.model_info import ModelInfo
from handler_host.workers.exit_report import ExitReport


class _Report(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all reports."""


class OperationReport(_Report, frozen=True, kw_only=True):
    """One operation; its schemas are known after the first activation."""

    name: str
    summary: str = ""
    streams: bool | None = None
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None


class WorkerStatus(_Report, frozen=True, kw_only=True):
    """One worker of a handler."""

    generation: int
    state: str
    """``waiting``, ``activating``, ``active``, ``idle`` or ``draining``."""
    started_for: str
    """``dispatch``, ``operator``, ``deploy check``, or ``growth`` beside other workers."""
    version: str | None
    """The version that it runs, which may be older than the installed one; None before its launch."""
    pid: int | None
    place: str | None
    """The machine that it runs on; None for this one."""
    pss: int | None
    in_flight: int
    dispatches: int
    """Dispatches that it got so far."""
    cpu: float | None
    """Processors that it used between its last two heartbeats: 1.0 is one whole processor."""
    idle_for: float | None
    expires_in: float | None


class HandlerStatus(_Report, frozen=True, kw_only=True):
    """One handler, active or not."""

    name: str
    state: str
    reason: str | None
    """Why it is in this state, if that is unusual."""
    distribution: str
    version: str
    plugin: str | None
    """The installed handler that this one is an instance of."""
    title: str
    description: str
    models: Mapping[str, ModelInfo]
    """Facts about its models, as far as the manifest or the configuration declares them."""
    default_model: str | None
    """Model of requests that name none, if the handler has a setting ``model``."""
    operations: list[OperationReport] | None
    """None before the first activation of a handler without a manifest."""
    isolation: str
    python: str | None
    """The interpreter of the handler's own environment; None for the host's."""
    pin: bool
    generation: int = 0
    pid: int | None = None
    """None without a worker, and for one on another machine."""
    place: str | None = None
    """The machine that the worker runs on; None for this one."""
    confinement: list[str] | None = None
    """The measures by which the kernel confines its worker; None without a ready worker."""
    pss: int | None = None
    learned_pss: int | None = None
    in_flight: int = 0
    queued: int = 0
    idle_for: float | None = None
    expires_in: float | None = None
    retry_in: float | None = None
    max_workers: int = 1
    """Workers that it may have at a time."""
    workers: list[WorkerStatus] = []
    """Its workers, oldest first; ``generation`` and ``pid`` above are those of the oldest that takes dispatches."""
    dispatches: int = 0
    """Dispatches admitted since the host's start."""
    error_rate: float | None = None
    """Share of the last 256 dispatches that failed, without client errors."""
    median_seconds: float | None = None
    """Of the last 256 dispatches, from request to last byte, with activation; ``p99_seconds``: 99th percentile."""
    p99_seconds: float | None = None
    last_exit: ExitReport | None = None


class LoadReceipt(_Report, frozen=True, kw_only=True):
    """The response to a load: the handler is active now."""

    handler: str
    generation: int
    pid: int
    already: bool
    """Whether it was active before."""
    activate_seconds: float
    pss_before: int
    """PSS of the host and all its processes."""
    pss_after: int


class UnloadReceipt(_Report, frozen=True, kw_only=True):
    """The response to an unload: the process has exited."""

    handler: str
    generation: int | None
    """The worker that exited last; None without one."""
    was: str
    """The state of the handler before the unload."""
    bytes_given_back: int
    """``given_back`` of the :class:`ExitReport` of all workers; 0 without one, or if it was never measured."""
    workers: int = 0
    """Processes that exited."""
    pss_before: int
    """PSS of the host and all its processes."""
    pss_after: int
    drained: int
    """Dispatches in flight that came to their end."""
    killed: int
    """Dispatches in flight that were ended with an error."""
    seconds: float
    exit: str | None
    """How the process exited."""


class RescanReport(_Report, frozen=True, kw_only=True):
    """The changes that a rescan found, by handler."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    secrets: dict[str, list[str]]
    """Secrets that a handler receives from its next activation on, and did not receive before."""
    problems: dict[str, str]
    """Handlers that cannot run, with the reason."""
    warnings: list[str]


class CheckReport(_Report, frozen=True, kw_only=True):
    """One item of the check of a deploy."""

    name: str
    """``catalog``, ``fork server``, or a handler's name."""
    ok: bool
    text: str


class VerifyReport(_Report, frozen=True, kw_only=True):
    """The result of the check of a deploy."""

    state: str
    """``running``, ``passed``, ``failed``, or ``skipped`` if the commit was verified before."""
    commit: str | None
    checks: list[CheckReport] = []
    seconds: float = 0.0
    host_bytes: int = 0
    """Growth of the host's own process."""
