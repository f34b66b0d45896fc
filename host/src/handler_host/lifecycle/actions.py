"""Everything that a decision may require: the output of ``handler_host.lifecycle.transitions.step``.

The controller performs the actions in their order.
"""

from __future__ import annotations

import msgspec

from handler_host.lifecycle.state import Drain, Timer
from handler_host.plugin.errors import HostError


class Reserve(msgspec.Struct, frozen=True):
    """Reserve memory for this worker, then post ``MemoryReserved`` or ``WorkerStartFailed``."""

    generation: int


class Launch(msgspec.Struct, frozen=True):
    """Launch and activate this worker, then post ``WorkerReady`` or ``WorkerStartFailed``."""

    generation: int


class Abandon(msgspec.Struct, frozen=True):
    """Cancel the reservation for this worker; no event follows."""

    generation: int


class Abort(msgspec.Struct, frozen=True):
    """Kill this worker while it activates, then post ``WorkerExited``."""

    generation: int


class Grant(msgspec.Struct, frozen=True, gc=False):
    """Grant the dispatch its lease on this worker."""

    dispatch: int
    generation: int


class Refuse(msgspec.Struct, frozen=True):
    """Refuse a dispatch that has no lease yet."""

    dispatch: int
    error: HostError


class EndLeases(msgspec.Struct, frozen=True):
    """End these dispatches of this worker with an error."""

    generation: int
    dispatches: frozenset[int]
    error: HostError


class Stop(msgspec.Struct, frozen=True):
    """Stop this worker (it deactivates and exits, or is killed in the end), then post ``WorkerExited``."""

    generation: int


class StartTimer(msgspec.Struct, frozen=True):
    """Start the timer, or restart it; it fires after ``delay`` seconds with ``token``."""

    timer: Timer
    token: int
    delay: float
    generation: int | None = None
    """The worker that the timer belongs to; None for a timer of the handler."""


class StopTimer(msgspec.Struct, frozen=True):
    """Stop the timer."""

    timer: Timer
    generation: int | None = None


class MeasureLoad(msgspec.Struct, frozen=True):
    """Measure for ``seconds`` whether one more worker would help, then post ``LoadMeasured`` with ``token``."""

    token: int
    seconds: float


class ReplyLoad(msgspec.Struct, frozen=True):
    """Reply to an operator's load; ``error`` None means that the handler is active."""

    request: int
    error: HostError | None


class ReplyUnload(msgspec.Struct, frozen=True):
    """Reply to an operator's unload: the process has exited, or there was none."""

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
    | MeasureLoad
    | ReplyLoad
    | ReplyUnload
)
