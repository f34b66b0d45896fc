"""What happens to a handler: ``step(state, event) -> (state, actions)``, and nothing else.

The rules are those of the race cases in ``docs/explanation/lifecycle.md``; a
comment names the case where a line exists for its sake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from handler_host.config import HandlerPolicy
from handler_host.lifecycle import moves
from handler_host.lifecycle.actions import Abandon, Abort, Action, Grant, Launch, Refuse, ReplyLoad, ReplyUnload
from handler_host.lifecycle.events import (
    Event,
    Evicted,
    LeaseCancelled,
    LeaseReleased,
    LeaseRequested,
    LoadRequested,
    MemoryLimitExceeded,
    MemoryReserved,
    PendingWorkDue,
    PolicyChanged,
    ShutdownRequested,
    TimerFired,
    UnloadRequested,
    WorkerExited,
    WorkerLost,
    WorkerReady,
    WorkerStartFailed,
)
from handler_host.lifecycle.moves import Result
from handler_host.lifecycle.state import CIRCUIT_BREAKER_CAUSES, Drain, Phase, State, Timer
from handler_host.plugin.errors import CircuitOpen, Draining, HandlerBusy, HandlerUnloaded, QueueFull
from handler_host.workers.events import Cause

JITTER = 0.25
"""By how much of themselves pauses may be longer than they are configured."""


def step(state: State, event: Event, policy: HandlerPolicy, now: float) -> Result:
    """Return the state after ``event``, and what is to be done, in this order.

    ``now`` is on a monotonic clock, in seconds. Events of another generation and
    of dispatches that are already gone leave the state as it is.
    """
    return _RULES[type(event)](state, event, policy, now)


def _asked(state: State, event: LeaseRequested, policy: HandlerPolicy, now: float) -> Result:
    if state.closing:
        return state, [Refuse(event.dispatch, Draining("the host is shutting down; ask another instance"))]
    if state.phase is Phase.READY and not state.waiters and len(state.leases) < policy.max_concurrency:
        state = replace(state, leases=state.leases | {event.dispatch})
        state, actions = moves.stop_timer(state, Timer.IDLE)
        actions.append(Grant(event.dispatch, state.generation))
        return state, actions
    if state.phase is Phase.FAILED:
        return state, [Refuse(event.dispatch, moves.backoff_error(state, now))]
    if len(state.waiters) >= policy.max_queue:
        error = QueueFull(
            f"the queue is full: {len(state.waiters)} dispatches wait and {len(state.leases)} are under way "
            "(max_queue and max_concurrency of the handler)"
        )
        return state, [Refuse(event.dispatch, error)]
    state = replace(state, waiters=(*state.waiters, event.dispatch))
    return moves.start(state) if state.phase is Phase.COLD else (state, [])


def _released(state: State, event: LeaseReleased, policy: HandlerPolicy, now: float) -> Result:
    if event.dispatch not in state.leases:
        return state, []
    state = replace(state, leases=state.leases - {event.dispatch})
    if state.half_open:
        # The worker lived through a dispatch: the trial has decided for it (case 29).
        state = replace(state, half_open=False, crashes=())
    if state.phase is Phase.READY:
        return moves.grant_waiting(state, policy)
    if state.drain is None or state.leases or state.drain.stopping:
        return state, []
    return moves.stop(state)


def _withdrawn(state: State, event: LeaseCancelled, policy: HandlerPolicy, now: float) -> Result:
    if event.dispatch in state.leases:
        return _released(state, LeaseReleased(event.dispatch), policy, now)
    if event.dispatch not in state.waiters:
        return state, []
    state = replace(state, waiters=tuple(d for d in state.waiters if d != event.dispatch))
    if state.phase is Phase.WAITING and not state.waiters and not state.loads:
        # Nothing is forked for those who have all left (case 3). Once it is forked, it goes on (case 2).
        return replace(state, phase=Phase.COLD), [Abandon(state.generation)]
    return moves.grant_waiting(state, policy) if state.phase is Phase.READY else (state, [])


def _room_found(state: State, event: MemoryReserved, policy: HandlerPolicy, now: float) -> Result:
    if state.phase is not Phase.WAITING or event.generation != state.generation:
        return state, []
    return replace(state, phase=Phase.ACTIVATING), [Launch(state.generation)]


def _activated(state: State, event: WorkerReady, policy: HandlerPolicy, now: float) -> Result:
    if state.phase is not Phase.ACTIVATING or event.generation != state.generation:
        return state, []
    actions: list[Action] = [ReplyLoad(request, None) for request in state.loads]
    state = replace(state, phase=Phase.READY, loads=(), failures=0, error=None, retry_at=None)
    # Who waits is served in the same step, so that nobody takes the worker for idle in between (cases 11, 21).
    state, more = moves.grant_waiting(state, policy)
    return state, actions + more


def _activation_ended(state: State, event: WorkerStartFailed, policy: HandlerPolicy, now: float) -> Result:
    if state.phase is Phase.DRAINING:
        # It failed by itself while it was being aborted: it is gone all the same (case 13).
        return _exited(state, WorkerExited(event.generation), policy, now)
    if state.phase not in (Phase.WAITING, Phase.ACTIVATING) or event.generation != state.generation:
        return state, []
    actions = moves.reject_waiting(state, event.error)
    state = replace(state, phase=Phase.COLD, waiters=(), loads=())
    if not event.counts_as_failure or state.closing:
        return state, actions
    failures = state.failures + 1
    # No power of two that is too large for a float: a handler may fail for days.
    pause = min(policy.backoff * 2.0 ** min(failures - 1, 60), policy.backoff_max) * (1 + JITTER * event.jitter)
    state, more = moves.fail(replace(state, failures=failures), event.error, pause, now)
    return state, actions + more


def _lost(state: State, event: WorkerLost, policy: HandlerPolicy, now: float) -> Result:
    if event.generation != state.generation or state.phase not in (Phase.READY, Phase.DRAINING):
        return state, []
    if state.drain is not None and state.drain.stopping:
        return state, []
    actions: list[Action] = []
    if state.phase is Phase.READY:
        # Those in its queue share its end; who comes later waits for the next generation (case 27).
        actions = [Refuse(dispatch, event.error) for dispatch in state.waiters]
        state = replace(state, waiters=())
    drain = state.drain or Drain(event.cause)
    lost = len(state.leases)
    drain = replace(drain, cause=event.cause, drained=max(0, drain.drained - lost), killed=drain.killed + lost)
    state = replace(state, phase=Phase.DRAINING, leases=frozenset(), drain=drain)
    state, more = moves.stop(state)
    return state, actions + more


def _exited(state: State, event: WorkerExited, policy: HandlerPolicy, now: float) -> Result:
    if state.phase is not Phase.DRAINING or event.generation != state.generation or state.drain is None:
        return state, []
    drain = state.drain
    actions: list[Action] = [ReplyUnload(request, event.generation, drain) for request in drain.unloads]
    state, more = moves.stop_timer(state, Timer.DRAIN)
    actions += more
    state = replace(state, phase=Phase.COLD, drain=None, leases=frozenset())
    if drain.cause in CIRCUIT_BREAKER_CAUSES:
        pause = policy.circuit_pause * (1 + JITTER * event.jitter)
        state, opened = _count_crash(state, drain.cause, policy, pause, now)
        if opened:
            return state, actions + opened
    if state.closing:
        actions += moves.reject_waiting(state, Draining("the host is shutting down; ask another instance"))
        return replace(state, waiters=(), loads=()), actions
    if state.waiters or state.loads:
        # A new generation answers who came while the old one was leaving (case 10).
        state, more = moves.start(state)
        actions += more
    return state, actions


def _count_crash(state: State, cause: Cause, policy: HandlerPolicy, pause: float, now: float) -> Result:
    crashes = (*(at for at in state.crashes if now - at < policy.crash_window), now)
    state = replace(state, crashes=crashes)
    if state.closing or not (state.half_open or len(crashes) >= policy.crash_limit):
        return state, []
    error = CircuitOpen(
        f"the handler is paused: its worker ended by {cause.value} {len(crashes)} times "
        f"within {policy.crash_window:g} s"
    )
    actions = moves.reject_waiting(state, error)
    state, more = moves.fail(replace(state, waiters=(), loads=()), error, pause, now)
    return state, actions + more


def _timer_fired(state: State, event: TimerFired, policy: HandlerPolicy, now: float) -> Result:
    if state.token(event.timer) != event.token:
        return state, []
    state, _ = moves.stop_timer(state, event.timer)
    if event.timer is Timer.RETRY:
        half_open = isinstance(state.error, CircuitOpen)
        return replace(state, phase=Phase.COLD, retry_at=None, half_open=half_open), []
    if event.timer is Timer.IDLE:
        return moves.begin_drain(state, Drain(Cause.IDLE))
    return moves.force(state)


def _load_asked(state: State, event: LoadRequested, policy: HandlerPolicy, now: float) -> Result:
    if state.closing:
        return state, [ReplyLoad(event.request, Draining("the host is shutting down"))]
    if state.phase is Phase.READY:
        return state, [ReplyLoad(event.request, None)]
    actions: list[Action] = []
    if state.phase is Phase.FAILED:
        state, actions = moves.reset_failures(state)
    state = replace(state, loads=(*state.loads, event.request))
    if state.phase is not Phase.COLD:
        return state, actions
    state, more = moves.start(state)
    return state, actions + more


def _woken(state: State, event: PendingWorkDue, policy: HandlerPolicy, now: float) -> Result:
    # After a failure its pause is kept: nobody waits for this activation.
    return moves.start(state) if state.phase is Phase.COLD and not state.closing else (state, [])


def _unload_asked(state: State, event: UnloadRequested, policy: HandlerPolicy, now: float) -> Result:
    if state.phase in (Phase.COLD, Phase.FAILED):
        state, actions = moves.reset_failures(state)
        return state, [*actions, ReplyUnload(event.request, None, None)]
    busy = state.leases or state.waiters or state.loads
    if event.mode == "if_idle" and busy and state.phase is not Phase.DRAINING:
        error = HandlerBusy(
            f"the handler is busy: {len(state.leases)} dispatches under way, {len(state.waiters)} waiting; "
            "use mode=drain or mode=force"
        )
        return state, [ReplyUnload(event.request, state.generation, None, error)]
    unloaded = HandlerUnloaded("the handler was unloaded by an operator; ask again")
    if state.phase is Phase.WAITING:
        actions = [*moves.reject_waiting(state, unloaded), Abandon(state.generation)]
        state = replace(state, phase=Phase.COLD, waiters=(), loads=())
        return state, [*actions, ReplyUnload(event.request, None, None)]
    if state.phase is Phase.ACTIVATING:
        drain = Drain(Cause.ABORTED, unloads=(event.request,), stopping=True)
        actions = [*moves.reject_waiting(state, unloaded), Abort(state.generation)]
        return replace(state, phase=Phase.DRAINING, drain=drain, waiters=(), loads=()), actions
    actions = []
    if event.mode == "force":
        actions = [Refuse(dispatch, unloaded) for dispatch in state.waiters]
        state = replace(state, waiters=())
    if state.drain is not None:
        drain = replace(state.drain, unloads=(*state.drain.unloads, event.request))
        state = replace(state, drain=drain)
    else:
        state, more = moves.begin_drain(state, Drain(event.cause, unloads=(event.request,)))
        actions += more
    if state.drain is None or state.drain.stopping:
        return state, actions
    if event.mode == "force":
        state, more = moves.force(state)
    else:
        state, more = moves.start_timer(state, Timer.DRAIN, event.deadline)
    return state, actions + more


def _evicted(state: State, event: Evicted, policy: HandlerPolicy, now: float) -> Result:
    if event.generation != state.generation or state.phase is not Phase.READY:
        return state, []
    if state.leases or state.waiters or policy.pin:
        return state, []
    return moves.begin_drain(state, Drain(Cause.EVICTED))


def _overgrown(state: State, event: MemoryLimitExceeded, policy: HandlerPolicy, now: float) -> Result:
    if event.generation != state.generation or state.phase is not Phase.READY:
        return state, []
    state, actions = moves.begin_drain(state, Drain(event.cause))
    if not state.leases:
        return state, actions
    state, more = moves.start_timer(state, Timer.DRAIN, policy.drain_timeout)
    return state, actions + more


def _policy_changed(state: State, event: PolicyChanged, policy: HandlerPolicy, now: float) -> Result:
    if state.phase is not Phase.READY or state.leases:
        return state, []
    state, actions = moves.stop_timer(state, Timer.IDLE)
    state, more = moves.grant_waiting(state, policy)
    return state, actions + more


def _closing(state: State, event: ShutdownRequested, policy: HandlerPolicy, now: float) -> Result:
    error = Draining("the host is shutting down; ask another instance")
    state = replace(state, closing=True)
    if state.phase in (Phase.COLD, Phase.FAILED):
        return moves.reset_failures(state)
    if state.phase is Phase.WAITING:
        actions = [*moves.reject_waiting(state, error), Abandon(state.generation)]
        return replace(state, phase=Phase.COLD, waiters=(), loads=()), actions
    if state.phase is Phase.ACTIVATING:
        actions = [*moves.reject_waiting(state, error), Abort(state.generation)]
        drain = Drain(Cause.SHUTDOWN, stopping=True)
        return replace(state, phase=Phase.DRAINING, drain=drain, waiters=(), loads=()), actions
    if state.phase is Phase.READY:
        # Who was admitted is served: the queue goes on until it is empty or the deadline comes.
        if not state.leases and not state.waiters:
            return moves.begin_drain(state, Drain(Cause.SHUTDOWN))
        state, actions = moves.stop_timer(state, Timer.IDLE)
        state, more = moves.start_timer(state, Timer.DRAIN, event.deadline)
        return state, actions + more
    actions = moves.reject_waiting(state, error)
    state = replace(state, waiters=(), loads=())
    if state.drain is None or state.drain.stopping:
        return state, actions
    state, more = moves.start_timer(state, Timer.DRAIN, event.deadline)
    return state, actions + more


_RULES: dict[type[Event], Callable[[State, Any, HandlerPolicy, float], Result]] = {
    LeaseRequested: _asked,
    LeaseCancelled: _withdrawn,
    LeaseReleased: _released,
    MemoryReserved: _room_found,
    WorkerReady: _activated,
    WorkerStartFailed: _activation_ended,
    WorkerLost: _lost,
    WorkerExited: _exited,
    TimerFired: _timer_fired,
    LoadRequested: _load_asked,
    PendingWorkDue: _woken,
    UnloadRequested: _unload_asked,
    Evicted: _evicted,
    PolicyChanged: _policy_changed,
    MemoryLimitExceeded: _overgrown,
    ShutdownRequested: _closing,
}
