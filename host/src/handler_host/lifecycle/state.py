"""The state of one handler and of each of its workers.

``handler_host.lifecycle.transitions.step`` is the only code that makes a new state. It is
pure: no loop, no clock, no process. The controller feeds it events, one at a time, and
performs the actions that it returns.

A handler has one worker, or up to ``max_workers`` of them: what belongs to a worker is in
its own :class:`WorkerState`, what they share, such as the queue, in :class:`HandlerState`.
"""

from __future__ import annotations

import enum

import msgspec

from handler_host.lifecycle.lease_set import NO_LEASES, LeaseSet
from handler_host.plugin.errors import HostError
from handler_host.workers.events import Cause


class WorkerPhase(enum.Enum):
    """The phase of a worker; after the last one it is removed from the state."""

    WAITING = "waiting"
    """Its memory is not reserved yet; nothing was forked."""
    ACTIVATING = "activating"
    """It is being launched, or imports its SDK and opens its clients."""
    READY = "ready"
    """It takes dispatches."""
    DRAINING = "draining"
    """It takes no new dispatch: it ends its leases, then exits, or has exited and is not reaped yet."""


class Phase(enum.Enum):
    """The phase of a handler, as operators see it: that of its most useful worker, else COLD or FAILED."""

    COLD = "cold"
    """No worker."""
    WAITING = "waiting"
    """An activation waits for memory."""
    ACTIVATING = "activating"
    """A worker is being launched, or imports its SDK and opens its clients."""
    READY = "ready"
    """A worker takes dispatches. Shown as active with leases, as idle without."""
    DRAINING = "draining"
    """The last worker takes no new dispatch."""
    FAILED = "failed"
    """The last activation failed, or the circuit breaker is open: no activation before ``retry_at``."""


_BY_USEFULNESS = (
    (WorkerPhase.READY, Phase.READY),
    (WorkerPhase.ACTIVATING, Phase.ACTIVATING),
    (WorkerPhase.WAITING, Phase.WAITING),
    (WorkerPhase.DRAINING, Phase.DRAINING),
)

CIRCUIT_BREAKER_CAUSES = frozenset({Cause.CRASH, Cause.HANG, Cause.OUT_OF_MEMORY, Cause.KILLED})
"""Causes of an exit that count for the circuit breaker."""


class Timer(enum.Enum):
    """The timers: IDLE and DRAIN of each worker, RETRY of the handler."""

    IDLE = "idle"
    DRAIN = "drain"
    RETRY = "retry"


class Drain(msgspec.Struct, frozen=True, gc=False):
    """The way out of a worker."""

    cause: Cause
    unloads: tuple[int, ...] = ()
    """Operators' requests to answer when the process has exited."""
    drained: int = 0
    """Dispatches in flight that came to their end."""
    killed: int = 0
    """Dispatches in flight that were ended by force or by the drain deadline."""
    stopping: bool = False
    """Whether the worker was stopped, or is known to have exited."""


class WorkerState(msgspec.Struct, frozen=True):
    """Everything that decides about one worker."""

    generation: int
    """Its number; a handler never uses one twice."""
    phase: WorkerPhase = WorkerPhase.WAITING
    leases: LeaseSet = NO_LEASES
    """Dispatches in flight on it: the only in-flight counter there is."""
    drain: Drain | None = None
    """Set in DRAINING only."""
    idle_timer: int | None = None
    """Token of its running idle timer, which the event must carry; None if it does not run."""
    is_idle_timer_short: bool = False
    """Whether that timer is the one of a surplus worker (``shrink_after``)."""
    drain_timer: int | None = None
    """Token of its running drain timer."""


class HandlerState(msgspec.Struct, frozen=True):
    """Everything that decides about a handler."""

    workers: tuple[WorkerState, ...] = ()
    """Its workers, oldest first."""
    generation: int = 0
    """The number of the latest worker; 0 before the first."""
    waiters: tuple[int, ...] = ()
    """The queue: dispatches without a lease, in the order of their arrival."""
    loads: tuple[int, ...] = ()
    """Operators' loads that wait for an activation."""
    closing: bool = False
    """Whether the host shuts down: new dispatches are refused, admitted ones may end."""
    failures: int = 0
    """Activations that failed in a row."""
    crashes: tuple[float, ...] = ()
    """Times of the latest crashes, oldest first."""
    half_open: bool = False
    """Whether the circuit breaker is half-open: the next crash opens it again at once."""
    retry_at: float | None = None
    """When activations are allowed again, on the monotonic clock; None if they are."""
    error: HostError | None = None
    """The latest failure; refused dispatches get it until ``retry_at``."""
    retry_timer: int | None = None
    """Token of the running retry timer."""
    measurement: int | None = None
    """Token of the running measurement of the workers' load; None if none runs."""
    serial: int = 0
    """The latest token of a timer or a measurement."""

    @property
    def phase(self) -> Phase:
        """The phase of the handler as a whole."""
        for worker_phase, phase in _BY_USEFULNESS:
            if any(worker.phase is worker_phase for worker in self.workers):
                return phase
        return Phase.FAILED if self.retry_at is not None else Phase.COLD

    @property
    def in_flight(self) -> int:
        """Dispatches with a lease, on all workers."""
        return sum(worker.leases.size for worker in self.workers)

    def worker(self, generation: int | None) -> WorkerState | None:
        """Return the worker of this generation, or None."""
        for worker in self.workers:
            if worker.generation == generation:
                return worker
        return None

    def holder(self, dispatch: int) -> WorkerState | None:
        """Return the worker that a dispatch has a lease on, or None."""
        for worker in self.workers:
            if dispatch in worker.leases:
                return worker
        return None

    @property
    def alive(self) -> int:
        """How many workers take dispatches, or will."""
        return sum(worker.phase is not WorkerPhase.DRAINING for worker in self.workers)

    @property
    def is_served(self) -> bool:
        """Whether a worker takes dispatches, or will."""
        return any(worker.phase is not WorkerPhase.DRAINING for worker in self.workers)
