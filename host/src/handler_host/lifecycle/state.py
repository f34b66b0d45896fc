"""The life of one handler as data: its state, what can happen to it, what is to be done then.

``handler_host.lifecycle.transitions.step`` is the only code that makes a new state. It is pure: no
loop, no clock, no process. The supervisor feeds it events, one at a time, and
performs the actions it returns.

Each generation of a handler's worker has a number. Whatever can arrive late (a
timer, an exit, the outcome of an activation) carries the number it belongs to,
and is ignored by any other generation.
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

from handler_host.plugin.errors import HostError

UnloadMode = Literal["drain", "if_idle", "force"]


class Phase(enum.Enum):
    """Where a handler stands."""

    COLD = "cold"
    """No worker."""
    WAITING = "waiting"
    """To be activated, but there is no room yet; nothing was forked."""
    ACTIVATING = "activating"
    """A worker is being launched, or imports and opens what it needs."""
    READY = "ready"
    """A worker takes dispatches. With leases it is shown as active, without as idle."""
    DRAINING = "draining"
    """The worker takes nothing new; it ends its leases, then goes, or has gone and is not reaped yet."""
    FAILED = "failed"
    """The last activation failed, or the circuit is open; it is not tried again before ``retry_at``."""


class Cause(enum.Enum):
    """Why a worker ended, or is about to."""

    IDLE = "idle"
    OPERATOR = "operator"
    RELOAD = "reload"
    EVICTED = "evicted"
    ABORTED = "aborted"
    """It was unloaded while it activated."""
    SHUTDOWN = "shutdown"
    CRASH = "crash"
    HANG = "hang"
    OUT_OF_MEMORY = "out of memory"
    """The kernel killed it for memory, or it could get no more of it."""
    KILLED = "killed"
    """Somebody else than the host killed it, and not for memory."""
    RECYCLED = "recycled"
    """It outgrew ``memory_soft_limit``."""
    FAILED = "activation failed"


CIRCUIT_BREAKER_CAUSES = frozenset({Cause.CRASH, Cause.HANG, Cause.OUT_OF_MEMORY, Cause.KILLED})
"""Ends that count for the circuit."""


class Timer(enum.Enum):
    """The timers of a handler; at most one of each runs."""

    IDLE = "idle"
    DRAIN = "drain"
    RETRY = "retry"


class Drain(msgspec.Struct, frozen=True, gc=False):
    """A worker on its way out."""

    cause: Cause
    unloads: tuple[int, ...] = ()
    """The operators' requests that are answered when the process is gone."""
    drained: int = 0
    """Dispatches that were under way and came to their end."""
    killed: int = 0
    """Dispatches that were ended by force or by the drain deadline."""
    stopping: bool = False
    """Whether the worker was told to stop, or is known to be gone."""


class Unloaded(msgspec.Struct, frozen=True):
    """The outcome of an unload."""

    generation: int | None
    drain: Drain | None
    exit: str | None
    given_back: int
    """Bytes; see ``handler_host.workers.exit_report.ExitReport``."""


class State(msgspec.Struct, frozen=True):
    """Everything that decides about a handler."""

    phase: Phase = Phase.COLD
    generation: int = 0
    """The number of the latest generation; 0 before the first."""
    waiters: tuple[int, ...] = ()
    """Dispatches that have no lease yet, in the order of their arrival."""
    leases: frozenset[int] = frozenset()
    """Dispatches that the worker has: the only in-flight counter there is."""
    loads: tuple[int, ...] = ()
    """Operators' requests to load that wait for the activation."""
    drain: Drain | None = None
    """Set in DRAINING only."""
    closing: bool = False
    """The host shuts down: nothing new is taken, what is under way may end."""
    failures: int = 0
    """Activations that failed in a row."""
    crashes: tuple[float, ...] = ()
    """When the worker crashed lately, oldest first."""
    half_open: bool = False
    """The circuit was open and its pause is over: the next crash opens it again at once."""
    retry_at: float | None = None
    error: HostError | None = None
    """Why the handler is in FAILED; what a dispatch is told there."""
    tokens: tuple[tuple[Timer, int], ...] = ()
    """The timers that run, each with the number that its expiry has to carry."""
    serial: int = 0

    def token(self, timer: Timer) -> int | None:
        """Return the number of the running ``timer``, or None."""
        for kind, token in self.tokens:
            if kind is timer:
                return token
        return None


class _Record(msgspec.Struct, frozen=True):
    """Base of events and actions."""


class LeaseRequested(_Record, frozen=True, gc=False):
    """A dispatch wants a lease."""

    dispatch: int


class LeaseCancelled(_Record, frozen=True, gc=False):
    """A dispatch does not want its lease any more, whether it had it or not."""

    dispatch: int


class LeaseReleased(_Record, frozen=True, gc=False):
    """A dispatch is done with its lease."""

    dispatch: int


class MemoryReserved(_Record, frozen=True):
    """There is memory for the generation: it may be launched."""

    generation: int


class WorkerReady(_Record, frozen=True):
    """The worker is ready."""

    generation: int


class WorkerStartFailed(_Record, frozen=True):
    """There is no worker and no process of this generation: no room, no process, or a failed activation.

    ``faulty`` tells whether the handler is to blame, so that it is not tried again at once.
    """

    generation: int
    error: HostError
    counts_as_failure: bool = True
    jitter: float = 0.0
    """By which share of their spread the pauses are longer, from 0 to 1, so that not all handlers retry at once."""


class WorkerLost(_Record, frozen=True):
    """The channel to a ready worker has closed, or the worker is given up as hung."""

    generation: int
    cause: Cause
    error: HostError
    """What the dispatches in its queue are told."""


class WorkerExited(_Record, frozen=True):
    """The process of a generation is gone and reaped, its group too."""

    generation: int
    jitter: float = 0.0
    """As in ``WorkerStartFailed``."""


class TimerFired(_Record, frozen=True):
    """A timer ran out."""

    timer: Timer
    token: int


class LoadRequested(_Record, frozen=True):
    """An operator wants the handler active."""

    request: int


class PendingWorkDue(_Record, frozen=True):
    """The handler has work pending (``handler_host.plugin.pending``) that no dispatch asks for."""


class UnloadRequested(_Record, frozen=True):
    """An operator wants the handler's worker gone."""

    request: int
    mode: UnloadMode
    deadline: float
    """Seconds that dispatches under way are given."""
    cause: Cause = Cause.OPERATOR


class Evicted(_Record, frozen=True):
    """The budget wants this generation's memory; ignored unless it is idle."""

    generation: int


class PolicyChanged(_Record, frozen=True):
    """The handler may be idle for another time than before: it was pinned, or is not any more."""


class MemoryLimitExceeded(_Record, frozen=True):
    """The worker has taken too much memory, or could get no more: it goes when it has ended what it does."""

    generation: int
    cause: Cause


class ShutdownRequested(_Record, frozen=True):
    """The host shuts down."""

    deadline: float


Event = (
    LeaseRequested
    | LeaseCancelled
    | LeaseReleased
    | MemoryReserved
    | WorkerReady
    | WorkerStartFailed
    | WorkerLost
    | WorkerExited
    | TimerFired
    | LoadRequested
    | PendingWorkDue
    | UnloadRequested
    | Evicted
    | PolicyChanged
    | MemoryLimitExceeded
    | ShutdownRequested
)


class Reserve(_Record, frozen=True):
    """Find memory for this generation, then say RoomFound or ActivationEnded."""

    generation: int


class Launch(_Record, frozen=True):
    """Launch and activate this generation, then say Activated or ActivationEnded."""

    generation: int


class Abandon(_Record, frozen=True):
    """Stop looking for memory for this generation; no event follows."""

    generation: int


class Abort(_Record, frozen=True):
    """Kill this generation while it activates, then say Exited."""

    generation: int


class Grant(_Record, frozen=True, gc=False):
    """Give the dispatch its lease."""

    dispatch: int
    generation: int


class Refuse(_Record, frozen=True):
    """Tell a dispatch without a lease that it gets none."""

    dispatch: int
    error: HostError


class EndLeases(_Record, frozen=True):
    """End these dispatches of this generation with an error."""

    generation: int
    dispatches: frozenset[int]
    error: HostError


class Stop(_Record, frozen=True):
    """Let this generation's worker deactivate and exit, by force in the end, then say Exited."""

    generation: int


class StartTimer(_Record, frozen=True):
    """Start the timer, or start it anew; its expiry carries ``token``."""

    timer: Timer
    token: int
    delay: float


class StopTimer(_Record, frozen=True):
    """Stop the timer."""

    timer: Timer


class ReplyLoad(_Record, frozen=True):
    """Answer an operator's request to load; ``error`` None means active."""

    request: int
    error: HostError | None


class ReplyUnload(_Record, frozen=True):
    """Answer an operator's request to unload, when the process is gone (or never was)."""

    request: int
    generation: int | None
    drain: Drain | None
    error: HostError | None = None


Action = (
    Reserve
    | Launch
    | Abandon
    | Abort
    | Grant
    | Refuse
    | EndLeases
    | Stop
    | StartTimer
    | StopTimer
    | ReplyLoad
    | ReplyUnload
)
