"""The moves that the rules of ``transitions`` are made of: each gives the next state and the actions. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from handler_host.config import HandlerPolicy
from handler_host.lifecycle.actions import (
    Action,
    EndLeases,
    Grant,
    Refuse,
    ReplyLoad,
    Reserve,
    StartTimer,
    Stop,
    StopTimer,
)
from handler_host.lifecycle.state import Drain, Phase, State, Timer
from handler_host.plugin.errors import Draining, HandlerUnloaded, HostError
from handler_host.workers.events import Cause

Result = tuple[State, list[Action]]


def start(state: State) -> Result:
    """Begin a new generation, by looking for room."""
    generation = state.generation + 1
    return replace(state, phase=Phase.WAITING, generation=generation), [Reserve(generation)]


def grant_waiting(state: State, policy: HandlerPolicy) -> Result:
    """Give free places of a ready worker to who waits; without anybody, start the idle clock."""
    free = policy.max_concurrency - len(state.leases)
    granted, waiters = state.waiters[:free], state.waiters[free:]
    actions: list[Action] = [Grant(dispatch, state.generation) for dispatch in granted]
    if granted:
        state = replace(state, waiters=waiters, leases=state.leases.union(granted))
    if state.leases:
        return state, actions
    if state.closing:
        return begin_drain(state, Drain(Cause.SHUTDOWN))
    if policy.pin or policy.idle_after is None:
        return state, actions
    state, more = start_timer(state, Timer.IDLE, policy.idle_after)
    return state, actions + more


def begin_drain(state: State, drain: Drain) -> Result:
    """Take nothing new; stop at once if nothing is under way."""
    state, actions = stop_timer(state, Timer.IDLE)
    drain = replace(drain, drained=len(state.leases))
    state = replace(state, phase=Phase.DRAINING, drain=drain)
    if state.leases:
        return state, actions
    state, more = stop(state)
    return state, actions + more


def stop(state: State) -> Result:
    """Tell the worker to go: nothing of it is needed any more."""
    assert state.drain is not None, "only a departing worker is stopped"
    state = replace(state, drain=replace(state.drain, stopping=True))
    actions: list[Action] = []
    for timer in (Timer.IDLE, Timer.DRAIN):
        state, more = stop_timer(state, timer)
        actions += more
    return state, [*actions, Stop(state.generation)]


def force(state: State) -> Result:
    """End what is under way with an error, and stop."""
    if state.closing:
        error: HostError = Draining("the host shut down before the answer was complete")
    else:
        error = HandlerUnloaded("the handler was unloaded before the answer was complete")
    drain = state.drain or Drain(Cause.SHUTDOWN, drained=len(state.leases))
    ended = len(state.leases)
    drain = replace(drain, drained=max(0, drain.drained - ended), killed=drain.killed + ended)
    actions: list[Action] = []
    if state.phase is Phase.READY:
        actions += [Refuse(dispatch, error) for dispatch in state.waiters]
        state = replace(state, waiters=())
    if state.leases:
        actions.append(EndLeases(state.generation, state.leases, error))
    state = replace(state, phase=Phase.DRAINING, drain=drain, leases=frozenset())
    state, more = stop(state)
    return state, actions + more


def fail(state: State, error: HostError, pause: float, now: float) -> Result:
    """Try nothing for ``pause`` seconds."""
    state = replace(state, phase=Phase.FAILED, error=error, retry_at=now + pause)
    return start_timer(state, Timer.RETRY, pause)


def reset_failures(state: State) -> Result:
    """Leave FAILED: the next dispatch tries again at once."""
    state, actions = stop_timer(state, Timer.RETRY)
    return replace(state, phase=Phase.COLD, error=None, retry_at=None, failures=0, crashes=(), half_open=False), actions


def backoff_error(state: State, now: float) -> HostError:
    """Return what a dispatch is told while the handler is not tried."""
    assert state.error is not None, "FAILED has an error"
    assert state.retry_at is not None, "FAILED has an end"
    return state.error.copy(retry_after=max(0.0, state.retry_at - now))


def reject_waiting(state: State, error: HostError) -> list[Action]:
    """Answer everybody who waits with an error."""
    refusals: list[Action] = [Refuse(dispatch, error) for dispatch in state.waiters]
    return refusals + [ReplyLoad(request, error) for request in state.loads]


def start_timer(state: State, timer: Timer, delay: float) -> Result:
    """Start a timer, in place of one of its kind that runs; ``delay`` is in seconds."""
    serial = state.serial + 1
    others = tuple(entry for entry in state.tokens if entry[0] is not timer)
    state = replace(state, serial=serial, tokens=(*others, (timer, serial)))
    return state, [StartTimer(timer, serial, delay)]


def stop_timer(state: State, timer: Timer) -> Result:
    """Stop a timer, if it runs."""
    if state.token(timer) is None:
        return state, []
    return replace(state, tokens=tuple(entry for entry in state.tokens if entry[0] is not timer)), [StopTimer(timer)]
