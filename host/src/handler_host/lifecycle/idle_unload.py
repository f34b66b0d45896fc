"""Unload of idle workers: after which time one exits, and which ones stay. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from handler_host.config import HandlerPolicy
from handler_host.lifecycle.state import Drain, HandlerState, Timer, WorkerState
from handler_host.lifecycle.worker_transitions import Result, begin_drain, put, start_timer
from handler_host.workers.events import Cause


def has_surplus(state: HandlerState, policy: HandlerPolicy) -> bool:
    """Return whether there are more workers than stay when they are idle."""
    return state.alive > max(1, policy.min_workers)


def surplus_idle_time(policy: HandlerPolicy) -> float:
    """Return the seconds after which an idle worker exits, if others stay."""
    return policy.shrink_after if policy.idle_after is None else min(policy.shrink_after, policy.idle_after)


def last_idle_time(policy: HandlerPolicy) -> float | None:
    """Return the seconds after which an idle worker that is not surplus exits; None: it stays."""
    return None if policy.pin or policy.min_workers else policy.idle_after


def start_idle_timer(state: HandlerState, worker: WorkerState, policy: HandlerPolicy) -> Result:
    """Start the idle timer of a worker without leases, unless it stays."""
    is_short = has_surplus(state, policy)
    delay = surplus_idle_time(policy) if is_short else last_idle_time(policy)
    if delay is None:
        return put(state, worker), []
    return start_timer(state, replace(worker, is_idle_timer_short=is_short), Timer.IDLE, delay)


def handle_idle_expiry(state: HandlerState, worker: WorkerState, policy: HandlerPolicy) -> Result:
    """Stop an idle worker; one that was surplus stays for the rest of its idle time if the others have left."""
    worker = replace(worker, idle_timer=None)
    if not worker.is_idle_timer_short or has_surplus(state, policy):
        return begin_drain(state, worker, Drain(Cause.IDLE))
    worker, delay = replace(worker, is_idle_timer_short=False), last_idle_time(policy)
    if delay is None:
        return put(state, worker), []
    return start_timer(state, worker, Timer.IDLE, delay - surplus_idle_time(policy))
