"""Events of one worker, and the causes of its exit.

A worker reports what happens to it; the lifecycle decides what follows. Each event
carries the worker's generation, so that a late one never touches a later worker.
"""

from __future__ import annotations

import enum

import msgspec

from handler_host.plugin.errors import HostError


class Cause(enum.Enum):
    """Why a worker exited, or is about to."""

    IDLE = "idle"
    OPERATOR = "operator"
    RELOAD = "reload"
    DEPLOY_CHECK = "deploy check"
    """The check of a deploy had activated it."""
    EVICTED = "evicted"
    ABORTED = "aborted"
    """It was unloaded while it activated."""
    SHUTDOWN = "shutdown"
    CRASH = "crash"
    HANG = "hang"
    OUT_OF_MEMORY = "out of memory"
    """The kernel killed it for memory, or an allocation failed."""
    KILLED = "killed"
    """A process other than the host killed it, and the kernel recorded no kill for memory."""
    LOST = "lost"
    """Its exit status is unknown: its fork server ended, or the other machine is gone. No fault of the handler."""
    RECYCLED = "recycled"
    """It was over ``memory_soft_limit``."""
    SURPLUS = "surplus"
    """The configuration was changed to fewer workers."""
    FAILED = "activation failed"


class WorkerReady(msgspec.Struct, frozen=True):
    """The worker takes calls."""

    generation: int


class WorkerStartFailed(msgspec.Struct, frozen=True):
    """The worker did not become ready: no memory, no process, or a failed activation. Nothing of it is left.

    ``counts_as_failure`` means that the handler caused it, and is retried only after a backoff.
    """

    generation: int
    error: HostError
    counts_as_failure: bool = True
    jitter: float = 0.0
    """Share of the largest jitter that is added to the backoff, from 0 to 1, so that not all handlers retry at once."""


class WorkerLost(msgspec.Struct, frozen=True):
    """A ready worker ended by itself, or was killed because it hung or broke the protocol."""

    generation: int
    cause: Cause
    error: HostError
    """The error for the dispatches in its queue."""


class WorkerExited(msgspec.Struct, frozen=True):
    """The process of a worker has exited and is reaped, and so is its process group."""

    generation: int
    jitter: float = 0.0
    """As in ``WorkerStartFailed``."""


class MemoryLimitExceeded(msgspec.Struct, frozen=True):
    """The worker uses too much memory, or an allocation failed: it exits after its present dispatches."""

    generation: int
    cause: Cause


WorkerEvent = WorkerReady | WorkerStartFailed | WorkerLost | WorkerExited | MemoryLimitExceeded
