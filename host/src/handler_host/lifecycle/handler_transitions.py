"""State changes of a handler as a whole, such as its growth: each returns the next state and the actions. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from handler_host.config import HandlerPolicy
from handler_host.lifecycle.actions import Action, Grant, MeasureLoad, Refuse, ReplyLoad, Reserve, StartTimer, StopTimer
from handler_host.lifecycle.idle_unload import start_idle_timer
from handler_host.lifecycle.state import Drain, HandlerState, Timer, WorkerPhase, WorkerState
from handler_host.lifecycle.worker_transitions import Result, begin_drain, put
from handler_host.plugin.errors import CircuitOpen, HostError
from handler_host.workers.events import Cause


def start_worker(state: HandlerState) -> Result:
    """Start a new worker, by reserving its memory."""
    generation = state.generation + 1
    workers = (*state.workers, WorkerState(generation))
    return replace(state, workers=workers, generation=generation), [Reserve(generation)]


def serve_waiting(state: HandlerState, policy: HandlerPolicy, now: float) -> Result:
    """Start a worker if none will serve the dispatches and loads that wait; refuse them while the handler may not."""
    if state.is_served or not (state.waiters or state.loads):
        return state, []
    if state.retry_at is not None:
        return reject_waiting(state, backoff_error(state, now))
    # Workers that exit count: there are never more processes than configured.
    return start_worker(state) if len(state.workers) < policy.max_workers else (state, [])


def grant_waiting(state: HandlerState, worker: WorkerState, policy: HandlerPolicy) -> Result:
    """Grant the queued dispatches leases on a ready worker; if it has none then, start its idle timer."""
    actions: list[Action] = []
    if state.waiters:
        free = max(0, policy.max_concurrency - len(worker.leases))
        leases = worker.leases
        for dispatch in state.waiters[:free]:
            leases = leases.including(dispatch)
            actions.append(Grant(dispatch, worker.generation))
        worker = replace(worker, leases=leases)
        state = replace(state, waiters=state.waiters[free:])
    if worker.leases.size:
        return put(state, worker), actions
    if state.closing:
        return begin_drain(state, worker, Drain(Cause.SHUTDOWN))
    return start_idle_timer(state, worker, policy)


def wants_worker(state: HandlerState, policy: HandlerPolicy) -> bool:
    """Return whether there are more dispatches than the workers should have, and one more worker may start."""
    if len(state.workers) >= policy.max_workers or state.closing or state.retry_at is not None:
        return False
    ready, dispatches = 0, len(state.waiters)
    for worker in state.workers:
        if worker.phase is WorkerPhase.READY:
            ready, dispatches = ready + 1, dispatches + worker.leases.size
        elif worker.phase is not WorkerPhase.DRAINING:
            return False  # one at a time: it may suffice
    return ready > 0 and dispatches > ready * policy.target_requests


def watch_load(state: HandlerState, policy: HandlerPolicy) -> Result:
    """Measure the load while one more worker may be needed."""
    if state.measurement is not None or not wants_worker(state, policy):
        return state, []
    token = state.serial + 1
    return replace(state, measurement=token, serial=token), [MeasureLoad(token, policy.grow_after)]


def reject_waiting(state: HandlerState, error: HostError) -> Result:
    """Answer all dispatches and loads that wait with an error."""
    actions: list[Action] = [Refuse(dispatch, error) for dispatch in state.waiters]
    actions += [ReplyLoad(request, error) for request in state.loads]
    return replace(state, waiters=(), loads=()), actions


def refuse_queue(state: HandlerState, error: HostError) -> Result:
    """Answer the queued dispatches with an error; operators' loads keep waiting."""
    return replace(state, waiters=()), [Refuse(dispatch, error) for dispatch in state.waiters]


def back_off(state: HandlerState, error: HostError, delay: float, now: float) -> Result:
    """Start no worker for ``delay`` seconds."""
    token = state.serial + 1
    state = replace(state, error=error, retry_at=now + delay, retry_timer=token, serial=token)
    return state, [StartTimer(Timer.RETRY, token, delay)]


def backoff_error(state: HandlerState, now: float) -> HostError:
    """Return the error for a dispatch while the handler may not be activated."""
    assert state.error is not None, "a backoff has its error"
    assert state.retry_at is not None, "a backoff has its end"
    return state.error.copy(retry_after=max(0.0, state.retry_at - now))


def reset_failures(state: HandlerState) -> Result:
    """End the backoff, and forget failures and crashes: the next dispatch activates at once."""
    actions: list[Action] = [StopTimer(Timer.RETRY)] if state.retry_timer is not None else []
    state = replace(state, error=None, retry_at=None, retry_timer=None, failures=0, crashes=(), half_open=False)
    return state, actions


def count_crash(
    state: HandlerState, cause: Cause, policy: HandlerPolicy, now: float
) -> tuple[HandlerState, HostError | None]:
    """Count a crash for the circuit breaker; the error is set if that opens it."""
    crashes = (*(at for at in state.crashes if now - at < policy.crash_window), now)
    state = replace(state, crashes=crashes)
    if state.closing or not (state.half_open or len(crashes) >= policy.crash_limit):
        return state, None
    return state, CircuitOpen(
        f"the circuit breaker is open: the worker ended by {cause.value} {len(crashes)} times "
        f"within {policy.crash_window:g} s; retry later"
    )
