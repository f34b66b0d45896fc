"""State changes of one worker: each returns the next state of its handler and the actions. Pure.

The worker that a function takes replaces the one of its generation in the state.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec.structs import replace

from handler_host.config import HandlerPolicy
from handler_host.lifecycle.actions import (
    Abandon,
    Abort,
    Action,
    EndLeases,
    Grant,
    Refuse,
    ReplyUnload,
    StartTimer,
    Stop,
    StopTimer,
)
from handler_host.lifecycle.lease_set import NO_LEASES
from handler_host.lifecycle.state import Drain, HandlerState, Timer, WorkerPhase, WorkerState
from handler_host.plugin.errors import Draining, HandlerUnloaded, HostError
from handler_host.workers.events import Cause

Result = tuple[HandlerState, list[Action]]
WorkerTimer = Literal[Timer.IDLE, Timer.DRAIN]


def put(state: HandlerState, worker: WorkerState, **changes: Any) -> HandlerState:
    """Return the state with ``worker`` in place of the one of its generation, and with ``changes``."""
    if len(state.workers) == 1:
        return replace(state, workers=(worker,), **changes)
    workers = (worker if present.generation == worker.generation else present for present in state.workers)
    return replace(state, workers=tuple(workers), **changes)


def remove(state: HandlerState, worker: WorkerState) -> HandlerState:
    """Return the state without ``worker``."""
    return replace(state, workers=tuple(w for w in state.workers if w.generation != worker.generation))


def has_other(state: HandlerState, worker: WorkerState) -> bool:
    """Return whether another worker takes dispatches, or will: then the queue is not this one's alone."""
    return any(
        other.generation != worker.generation and other.phase is not WorkerPhase.DRAINING for other in state.workers
    )


def least_loaded(state: HandlerState, policy: HandlerPolicy) -> WorkerState | None:
    """Return the ready worker with the fewest leases that may have one more; of equals the oldest."""
    best, fewest = None, policy.max_concurrency
    for worker in state.workers:
        if worker.phase is WorkerPhase.READY and worker.leases.size < fewest:
            best, fewest = worker, worker.leases.size
    return best


def choose_worker(state: HandlerState, policy: HandlerPolicy, affinity: str | None) -> WorkerState | None:
    """Return the ready worker that a dispatch goes to, or None.

    That is the one that its key prefers, unless it has over ``target_requests / 2`` more leases than the least loaded
    one. A worker that comes or goes changes the preference of its own keys only (rendezvous hashing).
    """
    least = least_loaded(state, policy)
    if affinity is None or least is None:
        return least
    ready = [worker for worker in state.workers if worker.phase is WorkerPhase.READY]
    preferred = max(ready, key=lambda worker: hash((affinity, worker.generation)))
    most = min(least.leases.size + policy.target_requests // 2, policy.max_concurrency - 1)
    return preferred if preferred.leases.size <= most else least


def grant(state: HandlerState, worker: WorkerState, dispatch: int) -> Result:
    """Grant one dispatch a lease on the worker."""
    leases = worker.leases.including(dispatch)
    if worker.idle_timer is None:
        return put(state, replace(worker, leases=leases)), [Grant(dispatch, worker.generation)]
    state = put(state, replace(worker, leases=leases, idle_timer=None))
    return state, [StopTimer(Timer.IDLE, worker.generation), Grant(dispatch, worker.generation)]


def shrink(state: HandlerState, policy: HandlerPolicy) -> Result:
    """End the workers beyond ``max_workers``: those that are not ready first, then those with the fewest leases."""
    excess = state.alive - policy.max_workers
    if excess <= 0:
        return state, []
    alive = [worker for worker in state.workers if worker.phase is not WorkerPhase.DRAINING]
    # Of equals the newest.
    alive.sort(key=lambda worker: (worker.phase is WorkerPhase.READY, len(worker.leases), -worker.generation))
    actions: list[Action] = []
    for worker in alive[:excess]:
        more: list[Action]
        if worker.phase is WorkerPhase.WAITING:
            state, more = remove(state, worker), [Abandon(worker.generation)]
        elif worker.phase is WorkerPhase.ACTIVATING:
            state, more = abort(state, worker, Drain(Cause.SURPLUS))
        else:
            state, more = drain_within(state, worker, Drain(Cause.SURPLUS), policy.drain_timeout)
        actions += more
    return state, actions


def drain_within(state: HandlerState, worker: WorkerState, drain: Drain, seconds: float) -> Result:
    """Drain the worker; after ``seconds`` its remaining dispatches end with an error."""
    state, actions = begin_drain(state, worker, drain)
    draining = state.worker(worker.generation)
    if draining is None or not draining.leases:
        return state, actions
    state, more = start_timer(state, draining, Timer.DRAIN, seconds)
    return state, actions + more


def begin_drain(state: HandlerState, worker: WorkerState, drain: Drain) -> Result:
    """Give the worker no new dispatch; stop it at once if none is in flight."""
    worker, actions = stop_timer(worker, Timer.IDLE)
    drain = replace(drain, drained=len(worker.leases))
    worker = replace(worker, phase=WorkerPhase.DRAINING, drain=drain)
    if worker.leases:
        return put(state, worker), actions
    state, more = stop(state, worker)
    return state, actions + more


def stop(state: HandlerState, worker: WorkerState) -> Result:
    """Stop a draining worker: no dispatch needs it any more."""
    drain = worker.drain
    assert drain is not None, "only a draining worker is stopped"
    worker, actions = stop_timer(worker, Timer.IDLE)
    worker, more = stop_timer(worker, Timer.DRAIN)
    worker = replace(worker, drain=replace(drain, stopping=True))
    return put(state, worker), [*actions, *more, Stop(worker.generation)]


def force(state: HandlerState, worker: WorkerState) -> Result:
    """End the worker's dispatches with an error, and stop it."""
    if state.closing:
        error: HostError = Draining("the host shut down before the response was complete; retry the request")
    else:
        error = HandlerUnloaded("the handler was unloaded before the response was complete; retry the request")
    ended = len(worker.leases)
    drain = worker.drain or Drain(Cause.SHUTDOWN, drained=ended)
    drain = replace(drain, drained=max(0, drain.drained - ended), killed=drain.killed + ended)
    actions: list[Action] = []
    if worker.phase is WorkerPhase.READY and not has_other(state, worker):
        actions += [Refuse(dispatch, error) for dispatch in state.waiters]
        state = replace(state, waiters=())
    if worker.leases:
        actions.append(EndLeases(worker.generation, frozenset(worker.leases), error))
    worker = replace(worker, phase=WorkerPhase.DRAINING, drain=drain, leases=NO_LEASES)
    state, more = stop(state, worker)
    return state, actions + more


def abort(state: HandlerState, worker: WorkerState, drain: Drain) -> Result:
    """Kill a worker that activates."""
    worker = replace(worker, phase=WorkerPhase.DRAINING, drain=replace(drain, stopping=True))
    return put(state, worker), [Abort(worker.generation)]


def reply_unloads(state: HandlerState, generation: int, drain: Drain) -> Result:
    """Answer the unloads that waited for a worker that has exited, or pass its figures on to the last one of them."""
    actions: list[Action] = []
    unanswered = set(drain.unloads)
    for other in state.workers:
        if other.drain is not None and not unanswered.isdisjoint(other.drain.unloads):
            # To one worker for all unloads that wait for it: each worker's figures count once.
            unanswered.difference_update(other.drain.unloads)
            drained, killed = other.drain.drained + drain.drained, other.drain.killed + drain.killed
            state = put(state, replace(other, drain=replace(other.drain, drained=drained, killed=killed)))
    actions += [ReplyUnload(request, generation, drain) for request in drain.unloads if request in unanswered]
    return state, actions


def start_timer(state: HandlerState, worker: WorkerState, timer: WorkerTimer, delay: float) -> Result:
    """Start a timer of the worker, or restart it; ``delay`` is in seconds."""
    token = state.serial + 1
    worker = replace(worker, idle_timer=token) if timer is Timer.IDLE else replace(worker, drain_timer=token)
    state = put(state, worker, serial=token)
    return state, [StartTimer(timer, token, delay, worker.generation)]


def stop_timer(worker: WorkerState, timer: WorkerTimer) -> tuple[WorkerState, list[Action]]:
    """Stop a timer of the worker, if it runs."""
    if timer is Timer.IDLE:
        if worker.idle_timer is None:
            return worker, []
        return replace(worker, idle_timer=None), [StopTimer(timer, worker.generation)]
    if worker.drain_timer is None:
        return worker, []
    return replace(worker, drain_timer=None), [StopTimer(timer, worker.generation)]
