"""Several handlers and one budget, under any order of events and memory pressure.

The real ``step`` and the real ledger; the machine plays supervisor, launchers and
kernel. What takes time in the host (a grant that arrives later, a process that exits
later) is a rule of its own here, so that anything can happen in between.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from handler_host.config import HandlerPolicy
from handler_host.lifecycle.actions import (
    Abandon,
    Abort,
    Action,
    EndLeases,
    Grant,
    Launch,
    Refuse,
    ReplyUnload,
    Reserve,
    Stop,
)
from handler_host.lifecycle.events import (
    Event,
    Evicted,
    LeaseCancelled,
    LeaseReleased,
    LeaseRequested,
    MemoryLimitExceeded,
    MemoryReserved,
    ShutdownRequested,
    TimerFired,
    UnloadMode,
    UnloadRequested,
    WorkerExited,
    WorkerLost,
    WorkerReady,
    WorkerStartFailed,
)
from handler_host.lifecycle.state import HandlerState, Phase, Timer
from handler_host.lifecycle.transitions import step
from handler_host.memory.eviction import Candidate
from handler_host.memory.ledger import Key, Ledger, Request
from handler_host.plugin.errors import ActivationFailed, HandlerCrashed, MemoryBudget
from handler_host.workers.events import Cause

pytestmark = pytest.mark.slow  # thousands of steps

USABLE, BASE = 1000, 100
SIZES = {"small": 150, "middle": 350, "large": 600, "pinned": 200, "huge": 2000}
"""Bytes of each handler; the last one never fits."""


class Handler:
    """One handler, and what the world knows of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.policy = HandlerPolicy(
            max_concurrency=2, max_queue=3, crash_limit=4, crash_window=5.0, pin=name == "pinned"
        )
        self.state = HandlerState()
        self.waiting: set[int] = set()
        self.held: set[int] = set()
        self.unloads: set[int] = set()
        self.request: Request | None = None
        """Its reservation, until the decision arrives."""
        self.outcome: bool | None = None
        """The decision, until it arrives."""
        self.process: int | None = None
        self.stopped = False
        self.idle_since = 0.0

    @property
    def leases(self) -> set[int]:
        return {dispatch for worker in self.state.workers for dispatch in worker.leases}

    @property
    def timers(self) -> list[TimerFired]:
        """The events of the timers that run."""
        events = []
        for worker in self.state.workers:
            for timer, token in ((Timer.IDLE, worker.idle_timer), (Timer.DRAIN, worker.drain_timer)):
                if token is not None:
                    events.append(TimerFired(timer, token, worker.generation))
        if self.state.retry_timer is not None:
            events.append(TimerFired(Timer.RETRY, self.state.retry_timer))
        return events

    @property
    def idle(self) -> bool:
        return self.state.phase is Phase.READY and not self.state.in_flight and not self.state.waiters


class House(RuleBasedStateMachine):
    """The host: its handlers and its budget."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.numbers = 0
        self.handlers = {name: Handler(name) for name in SIZES}
        self.sizes: dict[Key, int] = {}
        self.over_budget = False
        """A worker used more than reserved: until memory is available again, usage may be over the limit."""
        self.ledger = Ledger(USABLE, candidates=self.candidates, evict=self.evict, pinned=self.pinned)
        self.ledger.measure(BASE, 0, {}, {})

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def candidates(self) -> list[Candidate]:
        return [
            Candidate(one.name, one.state.generation, one.idle_since)
            for one in self.handlers.values()
            if one.idle and not one.policy.pin
        ]

    def pinned(self) -> list[Key]:
        return [(one.name, one.process) for one in self.handlers.values() if one.policy.pin and one.process is not None]

    def evict(self, name: str, generation: int) -> None:
        handler = self.handlers[name]
        assert handler.idle, "a busy handler is evicted"
        assert not handler.policy.pin, "a pinned handler is evicted"
        self.handle(handler, Evicted(generation))
        (worker,) = handler.state.workers
        assert worker.drain is not None
        assert worker.drain.cause is Cause.EVICTED

    def handle(self, handler: Handler, event: Event) -> None:
        self.now += 0.25
        was_idle = handler.idle
        handler.state, actions = step(handler.state, event, handler.policy, self.now)
        for action in actions:
            self.perform(handler, action)
        if handler.idle and not was_idle:
            handler.idle_since = self.now
            self.ledger.schedule()

    def perform(self, handler: Handler, action: Action) -> None:
        match action:
            case Reserve(generation):
                assert handler.process is None
                assert handler.request is None
                self.reserve(handler, generation)
            case Abandon():
                self.withdraw(handler)
            case Launch(generation):
                assert handler.process is None, "a second worker of one handler"
                handler.process, handler.stopped = generation, False
                taken = self.ledger.used + self.ledger.reserved
                assert self.over_budget or taken <= USABLE, f"{taken} of {USABLE} at a fork"
            case Abort(generation) | Stop(generation):
                assert handler.process == generation
                handler.stopped = True
                self.ledger.mark_leaving(handler.name, generation)
            case Grant(dispatch, generation):
                assert generation == handler.process
                handler.waiting.remove(dispatch)
                handler.held.add(dispatch)
            case Refuse(dispatch):
                handler.waiting.remove(dispatch)
            case EndLeases(_, dispatches):
                handler.held -= dispatches
            case ReplyUnload(request):
                handler.unloads.remove(request)

    def reserve(self, handler: Handler, generation: int) -> None:
        def decide(granted: bool) -> None:
            assert handler.outcome is None, "decided twice"
            handler.outcome = granted
            if granted:
                taken = self.ledger.used + self.ledger.reserved + self.ledger.external_usage
                assert taken <= USABLE, f"{taken} of {USABLE} reserved"
            else:
                assert SIZES[handler.name] > self.ledger.max_grantable, "a final refusal, and it would fit"

        size = SIZES[handler.name]
        handler.request = Request(handler.name, generation, size, size, decide)
        self.ledger.request(handler.request)

    def withdraw(self, handler: Handler) -> None:
        request, handler.request, handler.outcome = handler.request, None, None
        assert request is not None
        self.ledger.withdraw(request)

    def exit(self, handler: Handler) -> None:
        """Its process has exited; the event follows."""
        assert handler.process is not None
        self.sizes.pop((handler.name, handler.process), None)
        self.ledger.release(handler.name, handler.process)
        handler.process = None

    def pick(self, data: st.DataObject, fitting: list[Handler]) -> Handler:
        return data.draw(st.sampled_from(sorted(fitting, key=lambda one: one.name)))

    def having(self, condition: str) -> list[Handler]:
        return [one for one in self.handlers.values() if getattr(one, condition) not in (None, set())]

    @rule(name=st.sampled_from(sorted(SIZES)))
    def a_dispatch_requests_a_lease(self, name: str) -> None:
        handler, dispatch = self.handlers[name], self.number()
        handler.waiting.add(dispatch)
        self.handle(handler, LeaseRequested(dispatch))

    @precondition(lambda self: self.having("waiting"))
    @rule(data=st.data())
    def a_waiting_dispatch_leaves(self, data: st.DataObject) -> None:
        handler = self.pick(data, self.having("waiting"))
        dispatch = min(handler.waiting)
        handler.waiting.remove(dispatch)
        self.handle(handler, LeaseCancelled(dispatch))

    @precondition(lambda self: self.having("held"))
    @rule(data=st.data())
    def a_dispatch_ends(self, data: st.DataObject) -> None:
        handler = self.pick(data, self.having("held"))
        dispatch = min(handler.held)
        handler.held.remove(dispatch)
        self.handle(handler, LeaseReleased(dispatch))

    @precondition(lambda self: self.having("outcome"))
    @rule(data=st.data())
    def a_decision_arrives(self, data: st.DataObject) -> None:
        handler = self.pick(data, self.having("outcome"))
        request, granted = handler.request, handler.outcome
        assert request is not None
        handler.request = handler.outcome = None
        if granted:
            self.handle(handler, MemoryReserved(request.generation))
        else:
            self.handle(handler, WorkerStartFailed(request.generation, MemoryBudget("never"), counts_as_failure=False))

    @precondition(lambda self: any(one.outcome is None for one in self.having("request")))
    @rule(data=st.data())
    def a_reservation_times_out(self, data: st.DataObject) -> None:
        handler = self.pick(data, [one for one in self.having("request") if one.outcome is None])
        assert handler.request is not None
        generation = handler.request.generation
        self.withdraw(handler)
        self.handle(handler, WorkerStartFailed(generation, MemoryBudget("no room"), counts_as_failure=False))

    @precondition(lambda self: any(one.state.phase is Phase.ACTIVATING for one in self.having("process")))
    @rule(data=st.data(), fails=st.booleans())
    def an_activation_ends(self, data: st.DataObject, fails: bool) -> None:
        handler = self.pick(data, [one for one in self.having("process") if one.state.phase is Phase.ACTIVATING])
        generation = handler.process
        assert generation is not None
        if fails:
            self.exit(handler)
            self.handle(handler, WorkerStartFailed(generation, ActivationFailed("broken")))
        else:
            self.handle(handler, WorkerReady(generation))

    @precondition(lambda self: self.having("process"))
    @rule(data=st.data(), share=st.sampled_from([0.1, 0.5, 1.0]))
    def a_measurement_finds_the_expected(self, data: st.DataObject, share: float) -> None:
        handler = self.pick(data, self.having("process"))
        assert handler.process is not None
        key, size = (handler.name, handler.process), int(SIZES[handler.name] * share)
        self.sizes[key] = max(size, self.sizes.get(key, 0))
        self.ledger.measure(BASE, 0, self.sizes, {})

    @precondition(lambda self: self.having("process"))
    @rule(data=st.data())
    def a_worker_uses_more_than_reserved(self, data: st.DataObject) -> None:
        handler = self.pick(data, self.having("process"))
        assert handler.process is not None
        self.sizes[handler.name, handler.process] = SIZES[handler.name] + 400
        self.over_budget = True
        self.ledger.measure(BASE, 0, self.sizes, {})
        self.ledger.evict_excess()
        # What is on its way out counts as used until it is gone.
        leaving = sum(
            self.sizes.get((one.name, one.process), 0)
            for one in self.handlers.values()
            if one.process is not None and one.stopped
        )
        staying = self.ledger.used - leaving
        assert staying <= USABLE or not self.ledger.evictable(), "over the limit, and an idle handler stays"

    @rule(short=st.booleans())
    def the_kernel_reports_pressure(self, short: bool) -> None:
        self.ledger.under_pressure = short
        self.ledger.schedule()
        if short:
            self.ledger.evict_one()

    @precondition(lambda self: any(one.state.phase in (Phase.READY, Phase.DRAINING) for one in self.having("process")))
    @rule(data=st.data(), cause=st.sampled_from([Cause.CRASH, Cause.HANG, Cause.OUT_OF_MEMORY, Cause.KILLED]))
    def a_worker_is_lost(self, data: st.DataObject, cause: Cause) -> None:
        fitting = [one for one in self.having("process") if one.state.phase in (Phase.READY, Phase.DRAINING)]
        handler = self.pick(data, fitting)
        assert handler.process is not None
        stopping, held = handler.stopped, set(handler.held)
        self.handle(handler, WorkerLost(handler.process, cause, HandlerCrashed("gone")))
        if not stopping:
            for dispatch in held:
                handler.held.discard(dispatch)
                self.handle(handler, LeaseReleased(dispatch))

    @precondition(lambda self: any(one.stopped for one in self.having("process")))
    @rule(data=st.data())
    def a_process_exits(self, data: st.DataObject) -> None:
        handler = self.pick(data, [one for one in self.having("process") if one.stopped])
        generation = handler.process
        assert generation is not None
        self.exit(handler)
        self.handle(handler, WorkerExited(generation))

    @precondition(lambda self: any(one.timers for one in self.handlers.values()))
    @rule(data=st.data())
    def a_timer_fires(self, data: st.DataObject) -> None:
        handler = self.pick(data, [one for one in self.handlers.values() if one.timers])
        self.handle(handler, data.draw(st.sampled_from(handler.timers)))

    @precondition(lambda self: self.having("process"))
    @rule(data=st.data(), cause=st.sampled_from([Cause.RECYCLED, Cause.OUT_OF_MEMORY]))
    def a_worker_is_recycled(self, data: st.DataObject, cause: Cause) -> None:
        handler = self.pick(data, self.having("process"))
        assert handler.process is not None
        self.handle(handler, MemoryLimitExceeded(handler.process, cause))

    @rule(name=st.sampled_from(sorted(SIZES)), mode=st.sampled_from(["drain", "if_idle", "force"]))
    def an_operator_unloads(self, name: str, mode: UnloadMode) -> None:
        handler, request = self.handlers[name], self.number()
        handler.unloads.add(request)
        self.handle(handler, UnloadRequested(request, mode, 30.0))

    @invariant()
    def leases_and_waiters_are_those_known(self) -> None:
        for handler in self.handlers.values():
            assert handler.leases == handler.held
            assert set(handler.state.waiters) == handler.waiting
            if handler.waiting:
                assert handler.request is not None or handler.process is not None

    @invariant()
    def accounts_are_those_of_present_workers(self) -> None:
        counted = {name: self.ledger.size_of(name, handler.state.generation) for name, handler in self.handlers.items()}
        for name, handler in self.handlers.items():
            assert bool(counted[name]) == (handler.process is not None or handler.outcome is True)
        assert self.ledger.used + self.ledger.reserved == BASE + sum(counted.values())
        if self.ledger.available >= 0:
            self.over_budget = False

    @invariant()
    def no_request_waits_for_available_memory(self) -> None:
        assert {request.handler for request in self.ledger.queue} == {
            one.name for one in self.having("request") if one.outcome is None
        }
        if self.ledger.queue and not self.ledger.under_pressure:
            missing = self.ledger.queue[0].amount - self.ledger.available
            assert missing > 0, "the first request would fit"
            # Either enough is on its way out, or all that is idle would not do.
            assert not self.ledger.find_evictions(missing), "evictions would suffice, and do not happen"

    def teardown(self) -> None:
        """However it went: when the world comes to rest, nothing waits and nothing is left."""
        for handler in self.handlers.values():
            self.handle(handler, ShutdownRequested(1.0))
            while handler.held:
                dispatch = handler.held.pop()
                self.handle(handler, LeaseReleased(dispatch))
            if handler.process is not None:
                assert handler.stopped, "no dispatch is in flight, and the worker was not stopped"
                generation = handler.process
                self.exit(handler)
                self.handle(handler, WorkerExited(generation))
            assert not handler.waiting
            assert not handler.unloads
            assert handler.request is None
            assert handler.leases == set()
        assert self.ledger.queue == []
        assert (self.ledger.used, self.ledger.reserved) == (BASE, 0)


TestHouse = House.TestCase
TestHouse.settings = settings(max_examples=45, stateful_step_count=50, deadline=None)
