"""The state of one handler.

``handler_host.lifecycle.transitions.step`` is the only code that makes a new state. It is
pure: no loop, no clock, no process. The controller feeds it events, one at a time, and
performs the actions that it returns.
"""

from __future__ import annotations

import enum

import msgspec

from handler_host.plugin.errors import HostError
from handler_host.workers.events import Cause


class Phase(enum.Enum):
    """The phase of a handler."""

    COLD = "cold"
    """No worker."""
    WAITING = "waiting"
    """An activation waits for memory; nothing was forked."""
    ACTIVATING = "activating"
    """A worker is being launched, or imports its SDK and opens its clients."""
    READY = "ready"
    """A worker takes dispatches. It is shown as active with leases, as idle without."""
    DRAINING = "draining"
    """The worker takes no new dispatch: it ends its leases, then exits, or has exited and is not reaped yet."""
    FAILED = "failed"
    """The last activation failed, or the circuit breaker is open: no retry before ``retry_at``."""


CIRCUIT_BREAKER_CAUSES = frozenset({Cause.CRASH, Cause.HANG, Cause.OUT_OF_MEMORY, Cause.KILLED})
"""Causes of an exit that count for the circuit breaker."""


class Timer(enum.Enum):
    """The timers of a handler; at most one of each runs."""

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
    """Dispatches without a lease, in the order of their arrival."""
    leases: frozenset[int] = frozenset()
    """Dispatches in flight on the worker: the only in-flight counter there is."""
    loads: tuple[int, ...] = ()
    """Operators' loads that wait for the activation."""
    drain: Drain | None = None
    """Set in DRAINING only."""
    closing: bool = False
    """Whether the host shuts down: new dispatches are refused, those in flight may end."""
    failures: int = 0
    """Activations that failed in a row."""
    crashes: tuple[float, ...] = ()
    """Times of the latest crashes, oldest first."""
    half_open: bool = False
    """Whether the circuit breaker is half-open: the next crash opens it again at once."""
    retry_at: float | None = None
    error: HostError | None = None
    """Why the handler is in FAILED; the error for dispatches meanwhile."""
    tokens: tuple[tuple[Timer, int], ...] = ()
    """The timers that run, each with the token that its event must carry."""
    serial: int = 0

    def token(self, timer: Timer) -> int | None:
        """Return the token of the running ``timer``, or None."""
        for kind, token in self.tokens:
            if kind is timer:
                return token
        return None
