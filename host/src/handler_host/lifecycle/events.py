"""Everything that can happen to a handler: the input of ``handler_host.lifecycle.transitions.step``.

The events of a worker come from ``handler_host.workers.events``. An event that can
arrive late (a timer, an exit, the outcome of an activation) carries the generation of
its worker or the token of its timer, and changes nothing if that has been replaced.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from handler_host.lifecycle.state import Timer
from handler_host.workers.events import (
    Cause,
    MemoryLimitExceeded,
    WorkerEvent,
    WorkerExited,
    WorkerLost,
    WorkerReady,
    WorkerStartFailed,
)

UnloadMode = Literal["drain", "if_idle", "force"]


class LeaseRequested(msgspec.Struct, frozen=True, gc=False):
    """A dispatch requests a lease."""

    dispatch: int
    affinity: str | None = None
    """Key of dispatches that prefer the same worker, for example because its prompt cache helps them."""


class LeaseCancelled(msgspec.Struct, frozen=True, gc=False):
    """A dispatch no longer needs its lease, whether it was granted or not."""

    dispatch: int


class LeaseReleased(msgspec.Struct, frozen=True, gc=False):
    """A dispatch has ended, and releases its lease."""

    dispatch: int


class MemoryReserved(msgspec.Struct, frozen=True):
    """The memory of the worker is reserved: it may be launched."""

    generation: int


class TimerFired(msgspec.Struct, frozen=True):
    """A timer ran out."""

    timer: Timer
    token: int
    generation: int | None = None
    """The worker that the timer belongs to; None for a timer of the handler."""


class LoadMeasured(msgspec.Struct, frozen=True):
    """The load of the workers was measured."""

    token: int
    should_grow: bool
    """Whether all workers are bound by the processor, and a processor and memory are free for one more."""


class LoadRequested(msgspec.Struct, frozen=True):
    """An operator requests that the handler is active."""

    request: int


class PendingWorkDue(msgspec.Struct, frozen=True):
    """The handler has pending work (``handler_host.plugin.pending``) that no dispatch will trigger."""


class UnloadRequested(msgspec.Struct, frozen=True):
    """An operator requests that the handler's worker is unloaded."""

    request: int
    mode: UnloadMode
    deadline: float
    """Seconds for the dispatches in flight."""
    cause: Cause = Cause.OPERATOR


class Evicted(msgspec.Struct, frozen=True):
    """The memory budget evicts the worker; ignored unless it is idle."""

    generation: int


class PolicyChanged(msgspec.Struct, frozen=True):
    """The handler's pin, its idle times, or its numbers of workers or of dispatches for each have changed."""


class ShutdownRequested(msgspec.Struct, frozen=True):
    """The host shuts down."""

    deadline: float
    """Seconds for the dispatches in flight."""


Event = (
    LeaseRequested
    | LeaseCancelled
    | LeaseReleased
    | MemoryReserved
    | TimerFired
    | LoadMeasured
    | LoadRequested
    | PendingWorkDue
    | UnloadRequested
    | Evicted
    | PolicyChanged
    | ShutdownRequested
    | WorkerEvent
)

__all__ = [
    "Event",
    "Evicted",
    "LeaseCancelled",
    "LeaseReleased",
    "LeaseRequested",
    "LoadMeasured",
    "LoadRequested",
    "MemoryLimitExceeded",
    "MemoryReserved",
    "PendingWorkDue",
    "PolicyChanged",
    "ShutdownRequested",
    "TimerFired",
    "UnloadMode",
    "UnloadRequested",
    "WorkerExited",
    "WorkerLost",
    "WorkerReady",
    "WorkerStartFailed",
]
