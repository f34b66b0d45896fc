"""The life of a handler and its workers: ``step(state, event) -> (state, actions)``, and nothing else.

The rules are explained in ``docs/explanation/lifecycle.md``. A comment names the race case that needs a line:
``tests/integration/races`` has a test for each, named after its number. A rule decides about one worker or about
the whole handler: what it changes is in ``worker_transitions``, ``idle_unload`` and ``handler_transitions``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from handler_host.config import HandlerPolicy
from handler_host.lifecycle.actions import Abandon, Action, Launch, Refuse, ReplyLoad, ReplyUnload
from handler_host.lifecycle.events import (
    Event,
    Evicted,
    LeaseCancelled,
    LeaseReleased,
    LeaseRequested,
    LoadMeasured,
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
from handler_host.lifecycle.handler_transitions import (
    back_off,
    backoff_error,
    count_crash,
    grant_waiting,
    refuse_queue,
    reject_waiting,
    reset_failures,
    serve_waiting,
    start_worker,
    wants_worker,
    watch_load,
)
from handler_host.lifecycle.idle_unload import handle_idle_expiry
from handler_host.lifecycle.lease_set import NO_LEASES
from handler_host.lifecycle.state import (
    CIRCUIT_BREAKER_CAUSES,
    Drain,
    HandlerState,
    Timer,
    WorkerPhase,
    WorkerState,
)
from handler_host.lifecycle.worker_transitions import (
    Result,
    abort,
    begin_drain,
    choose_worker,
    drain_within,
    force,
    grant,
    has_other,
    put,
    remove,
    reply_unloads,
    shrink,
    start_timer,
    stop,
    stop_timer,
)
from handler_host.plugin.errors import CircuitOpen, Draining, HandlerBusy, HandlerUnloaded, QueueFull
from handler_host.workers.events import Cause

JITTER = 0.25
"""Largest share of a backoff that is added to it."""
SHUTTING_DOWN = "the host is shutting down; send the request to another instance"


def step(state: HandlerState, event: Event, policy: HandlerPolicy, now: float) -> Result:
    """Return the state after ``event``, and the actions to perform in their order.

    ``now`` is on a monotonic clock, in seconds. Events of a worker that has left the
    state, of a timer that does not run, and of a dispatch that has ended leave the state
    as it is.
    """
    state, actions = _RULES[type(event)](state, event, policy, now)
    if policy.max_workers == 1:
        return state, actions
    state, more = watch_load(state, policy)
    return state, actions + more


def _on_lease_requested(state: HandlerState, event: LeaseRequested, policy: HandlerPolicy, now: float) -> Result:
    if state.closing:
        return state, [Refuse(event.dispatch, Draining(SHUTTING_DOWN))]
    # A dispatch never overtakes the queue.
    if not state.waiters and (worker := choose_worker(state, policy, event.affinity)) is not None:
        return grant(state, worker, event.dispatch)
    if state.retry_at is not None and not state.is_served:
        return state, [Refuse(event.dispatch, backoff_error(state, now))]
    if len(state.waiters) >= policy.max_queue:
        error = QueueFull(
            f"the queue is full: {len(state.waiters)} dispatches wait and {state.in_flight} are in flight "
            "(max_queue and max_concurrency of the handler); retry later"
        )
        return state, [Refuse(event.dispatch, error)]
    return serve_waiting(replace(state, waiters=(*state.waiters, event.dispatch)), policy, now)


def _on_lease_released(state: HandlerState, event: LeaseReleased, policy: HandlerPolicy, now: float) -> Result:
    worker = state.holder(event.dispatch)
    if worker is None:
        return state, []
    worker = replace(worker, leases=worker.leases.without(event.dispatch))
    if state.half_open:
        # A worker lived through a dispatch: that closes the circuit breaker (case 29).
        state = replace(state, half_open=False, crashes=())
    if worker.phase is WorkerPhase.READY:
        return grant_waiting(state, worker, policy)
    if worker.drain is None or worker.leases or worker.drain.stopping:
        return put(state, worker), []
    return stop(state, worker)


def _on_lease_cancelled(state: HandlerState, event: LeaseCancelled, policy: HandlerPolicy, now: float) -> Result:
    if event.dispatch not in state.waiters:
        return _on_lease_released(state, LeaseReleased(event.dispatch), policy, now)
    state = replace(state, waiters=tuple(waiter for waiter in state.waiters if waiter != event.dispatch))
    if state.waiters or state.loads:
        return state, []
    actions: list[Action] = []
    for worker in state.workers:
        if worker.phase is WorkerPhase.WAITING:
            # Nothing is forked once all that waited have left (case 3). What is forked already continues (case 2).
            state, actions = remove(state, worker), [*actions, Abandon(worker.generation)]
    return state, actions


def _on_memory_reserved(state: HandlerState, event: MemoryReserved, policy: HandlerPolicy, now: float) -> Result:
    worker = state.worker(event.generation)
    if worker is None or worker.phase is not WorkerPhase.WAITING:
        return state, []
    return put(state, replace(worker, phase=WorkerPhase.ACTIVATING)), [Launch(worker.generation)]


def _on_worker_ready(state: HandlerState, event: WorkerReady, policy: HandlerPolicy, now: float) -> Result:
    worker = state.worker(event.generation)
    if worker is None or worker.phase is not WorkerPhase.ACTIVATING:
        return state, []
    actions: list[Action] = [ReplyLoad(request, None) for request in state.loads]
    state = replace(state, loads=(), failures=0, error=state.error if state.retry_at is not None else None)
    # The queue is served in the same step, so that the worker does not count as idle in between (cases 11, 21).
    state, more = grant_waiting(state, replace(worker, phase=WorkerPhase.READY), policy)
    return state, actions + more


def _on_worker_start_failed(state: HandlerState, event: WorkerStartFailed, policy: HandlerPolicy, now: float) -> Result:
    worker = state.worker(event.generation)
    if worker is None or worker.phase is WorkerPhase.READY:
        return state, []
    if worker.phase is WorkerPhase.DRAINING:
        # It failed by itself while it was being aborted: it is gone all the same (case 13).
        return _on_worker_exited(state, WorkerExited(event.generation), policy, now)
    actions: list[Action] = []
    if not has_other(state, worker):
        state, actions = reject_waiting(state, event.error)
    state = remove(state, worker)
    if not event.counts_as_failure or state.closing:
        return state, actions
    failures = state.failures + 1
    # The exponent is bounded, as a float is: a handler may fail for days.
    delay = min(policy.backoff * 2.0 ** min(failures - 1, 60), policy.backoff_max) * (1 + JITTER * event.jitter)
    state, more = back_off(replace(state, failures=failures), event.error, delay, now)
    return state, actions + more


def _on_worker_lost(state: HandlerState, event: WorkerLost, policy: HandlerPolicy, now: float) -> Result:
    worker = state.worker(event.generation)
    if worker is None or worker.phase not in (WorkerPhase.READY, WorkerPhase.DRAINING):
        return state, []
    if worker.drain is not None and worker.drain.stopping:
        return state, []
    actions: list[Action] = []
    if worker.phase is WorkerPhase.READY and not has_other(state, worker):
        # Its queue shares its end; a dispatch that arrives later waits for the next worker (case 27).
        state, actions = refuse_queue(state, event.error)
    drain, lost = worker.drain or Drain(event.cause), len(worker.leases)
    drain = replace(drain, cause=event.cause, drained=max(0, drain.drained - lost), killed=drain.killed + lost)
    worker = replace(worker, phase=WorkerPhase.DRAINING, leases=NO_LEASES, drain=drain)
    state, more = stop(state, worker)
    return state, actions + more


def _on_worker_exited(state: HandlerState, event: WorkerExited, policy: HandlerPolicy, now: float) -> Result:
    worker = state.worker(event.generation)
    if worker is None or worker.drain is None:
        return state, []
    drain = worker.drain
    worker, timers = stop_timer(worker, Timer.DRAIN)
    state, actions = reply_unloads(remove(state, worker), worker.generation, drain)
    actions += timers
    if drain.cause in CIRCUIT_BREAKER_CAUSES:
        state, error = count_crash(state, drain.cause, policy, now)
        if error is not None:
            if not state.is_served:
                state, more = reject_waiting(state, error)
                actions += more
            delay = policy.circuit_pause * (1 + JITTER * event.jitter)
            state, more = back_off(state, error, delay, now)
            return state, actions + more
    if state.closing:
        if state.workers:
            return state, actions
        state, more = reject_waiting(state, Draining(SHUTTING_DOWN))
    else:
        # A new worker serves the dispatches that came while this one was draining (case 10).
        state, more = serve_waiting(state, policy, now)
    return state, actions + more


def _on_timer_fired(state: HandlerState, event: TimerFired, policy: HandlerPolicy, now: float) -> Result:
    if event.timer is Timer.RETRY:
        if state.retry_timer != event.token:
            return state, []
        half_open = isinstance(state.error, CircuitOpen)
        return replace(state, retry_at=None, retry_timer=None, half_open=half_open), []
    worker = state.worker(event.generation)
    if worker is None:
        return state, []
    if event.timer is Timer.IDLE and worker.idle_timer == event.token:
        return handle_idle_expiry(state, worker, policy)
    if event.timer is Timer.DRAIN and worker.drain_timer == event.token:
        return force(state, replace(worker, drain_timer=None))
    return state, []


def _on_load_measured(state: HandlerState, event: LoadMeasured, policy: HandlerPolicy, now: float) -> Result:
    if event.token != state.measurement:
        return state, []
    state = replace(state, measurement=None)
    return start_worker(state) if event.should_grow and wants_worker(state, policy) else (state, [])


def _on_load_requested(state: HandlerState, event: LoadRequested, policy: HandlerPolicy, now: float) -> Result:
    if state.closing:
        return state, [ReplyLoad(event.request, Draining("the host is shutting down"))]
    if any(worker.phase is WorkerPhase.READY for worker in state.workers):
        return state, [ReplyLoad(event.request, None)]
    actions: list[Action] = []
    if state.retry_at is not None:
        state, actions = reset_failures(state)
    state, more = serve_waiting(replace(state, loads=(*state.loads, event.request)), policy, now)
    return state, actions + more


def _on_pending_work_due(state: HandlerState, event: PendingWorkDue, policy: HandlerPolicy, now: float) -> Result:
    # A backoff is kept: no client waits for this activation.
    return start_worker(state) if not state.workers and state.retry_at is None and not state.closing else (state, [])


def _on_unload_requested(state: HandlerState, event: UnloadRequested, policy: HandlerPolicy, now: float) -> Result:
    busy = state.in_flight or state.waiters or state.loads
    if event.mode == "if_idle" and busy and state.is_served:
        is_called = state.in_flight or state.waiters
        work = f"{state.in_flight} dispatches in flight, {len(state.waiters)} waiting" if is_called else "activating"
        error = HandlerBusy(f"the handler is busy: {work}; use mode=drain or mode=force")
        return state, [ReplyUnload(event.request, state.generation, None, error)]
    actions: list[Action] = []
    if not state.workers or state.retry_at is not None:
        state, actions = reset_failures(state)
    unloaded = HandlerUnloaded("an operator unloaded the handler; retry the request")
    if state.is_served and not any(worker.phase is WorkerPhase.READY for worker in state.workers):
        state, more = reject_waiting(state, unloaded)
        actions += more
    elif event.mode == "force":
        state, more = refuse_queue(state, unloaded)
        actions += more
    for worker in state.workers:
        state, more = _unload(state, worker, event)
        actions += more
    if not state.workers:
        actions.append(ReplyUnload(event.request, None, None))
    return state, actions


def _unload(state: HandlerState, worker: WorkerState, event: UnloadRequested) -> Result:
    """Unload one worker; the request is answered when the last one has exited."""
    if worker.phase is WorkerPhase.WAITING:
        return remove(state, worker), [Abandon(worker.generation)]
    if worker.phase is WorkerPhase.ACTIVATING:
        return abort(state, worker, Drain(Cause.ABORTED, unloads=(event.request,)))
    actions: list[Action] = []
    if worker.drain is not None:
        worker = replace(worker, drain=replace(worker.drain, unloads=(*worker.drain.unloads, event.request)))
        state = put(state, worker)
    else:
        state, actions = begin_drain(state, worker, Drain(event.cause, unloads=(event.request,)))
        worker = state.worker(worker.generation) or worker
    if worker.drain is None or worker.drain.stopping:
        return state, actions
    if event.mode == "force":
        state, more = force(state, worker)
    else:
        state, more = start_timer(state, worker, Timer.DRAIN, event.deadline)
    return state, actions + more


def _on_evicted(state: HandlerState, event: Evicted, policy: HandlerPolicy, now: float) -> Result:
    worker = state.worker(event.generation)
    if worker is None or worker.phase is not WorkerPhase.READY:
        return state, []
    if worker.leases or state.waiters or policy.pin:
        return state, []
    return begin_drain(state, worker, Drain(Cause.EVICTED))


def _on_memory_limit_exceeded(
    state: HandlerState, event: MemoryLimitExceeded, policy: HandlerPolicy, now: float
) -> Result:
    worker = state.worker(event.generation)
    if worker is None or worker.phase is not WorkerPhase.READY:
        return state, []
    return drain_within(state, worker, Drain(event.cause), policy.drain_timeout)


def _on_policy_changed(state: HandlerState, event: PolicyChanged, policy: HandlerPolicy, now: float) -> Result:
    state, actions = shrink(state, policy)
    for worker in state.workers:
        if worker.phase is WorkerPhase.READY and (state.waiters or not worker.leases):
            worker, more = stop_timer(worker, Timer.IDLE)
            actions += more
            state, more = grant_waiting(state, worker, policy)
            actions += more
    return state, actions


def _on_shutdown_requested(state: HandlerState, event: ShutdownRequested, policy: HandlerPolicy, now: float) -> Result:
    state = replace(state, closing=True)
    actions: list[Action] = []
    if not state.workers or state.retry_at is not None:
        state, actions = reset_failures(state)
    if not any(worker.phase is WorkerPhase.READY for worker in state.workers):
        state, more = reject_waiting(state, Draining(SHUTTING_DOWN))
        actions += more
    for worker in state.workers:
        state, more = _shut_down(state, worker, event)
        actions += more
    return state, actions


def _shut_down(state: HandlerState, worker: WorkerState, event: ShutdownRequested) -> Result:
    """Shut one worker down. Admitted dispatches are served: its queue too, until it is empty or the deadline comes."""
    if worker.phase is WorkerPhase.WAITING:
        return remove(state, worker), [Abandon(worker.generation)]
    if worker.phase is WorkerPhase.ACTIVATING:
        return abort(state, worker, Drain(Cause.SHUTDOWN))
    if worker.phase is WorkerPhase.READY and not worker.leases and not state.waiters:
        return begin_drain(state, worker, Drain(Cause.SHUTDOWN))
    if worker.drain is not None and worker.drain.stopping:
        return state, []
    worker, actions = stop_timer(worker, Timer.IDLE)
    state, more = start_timer(state, worker, Timer.DRAIN, event.deadline)
    return state, actions + more


_RULES: dict[type[Event], Callable[[HandlerState, Any, HandlerPolicy, float], Result]] = {
    LeaseRequested: _on_lease_requested,
    LeaseCancelled: _on_lease_cancelled,
    LeaseReleased: _on_lease_released,
    MemoryReserved: _on_memory_reserved,
    WorkerReady: _on_worker_ready,
    WorkerStartFailed: _on_worker_start_failed,
    WorkerLost: _on_worker_lost,
    WorkerExited: _on_worker_exited,
    TimerFired: _on_timer_fired,
    LoadMeasured: _on_load_measured,
    LoadRequested: _on_load_requested,
    PendingWorkDue: _on_pending_work_due,
    UnloadRequested: _on_unload_requested,
    Evicted: _on_evicted,
    PolicyChanged: _on_policy_changed,
    MemoryLimitExceeded: _on_memory_limit_exceeded,
    ShutdownRequested: _on_shutdown_requested,
}
