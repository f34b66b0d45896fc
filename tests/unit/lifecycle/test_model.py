"""The lifecycle under any order of events: what must hold after each of them.

The machine plays the controller and the world: it performs the actions that ``step``
returns by remembering what they promise, and lets dispatches, operators, timers,
crashes and a lack of memory happen in any order. It runs with one worker, and with up to
two, three and four.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from handler_host.config import HandlerPolicy
from handler_host.lifecycle.actions import (
    Abandon,
    Abort,
    Action,
    EndLeases,
    Grant,
    Launch,
    MeasureLoad,
    Refuse,
    ReplyLoad,
    ReplyUnload,
    Reserve,
    StartTimer,
    Stop,
    StopTimer,
)
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
    UnloadMode,
    UnloadRequested,
    WorkerExited,
    WorkerLost,
    WorkerReady,
    WorkerStartFailed,
)
from handler_host.lifecycle.handler_transitions import wants_worker
from handler_host.lifecycle.idle_unload import has_surplus, last_idle_time
from handler_host.lifecycle.state import HandlerState, Phase, Timer, WorkerPhase
from handler_host.lifecycle.transitions import step
from handler_host.plugin.errors import ActivationFailed, HandlerCrashed, MemoryBudget
from handler_host.workers.events import Cause

pytestmark = pytest.mark.slow  # thousands of steps

ALIVE = (WorkerPhase.WAITING, WorkerPhase.ACTIVATING, WorkerPhase.READY)


class Handler(RuleBasedStateMachine):
    """One handler, and what the world knows of it."""

    max_workers = 1
    min_workers = 0

    def __init__(self) -> None:
        super().__init__()
        self.policy = HandlerPolicy(
            max_concurrency=2,
            max_queue=3,
            crash_limit=3,
            max_workers=self.max_workers,
            min_workers=self.min_workers,
            target_requests=1,
        )
        self.state = HandlerState()
        self.now = 0.0
        self.waiting: set[int] = set()
        """Dispatches that requested a lease and have no answer yet."""
        self.held: dict[int, int] = {}
        """Dispatches with a lease that they have not released, and the worker that it is on."""
        self.loads: set[int] = set()
        self.unloads: dict[int, set[int]] = {}
        """Unloads without a reply, and the workers that had a process when they were requested."""
        self.reserving: set[int] = set()
        self.processes: set[int] = set()
        """Workers that have a process."""
        self.stopped: set[int] = set()
        """Those of them that were told to exit."""
        self.timers: dict[tuple[Timer, int | None], int] = {}
        self.measurements: set[int] = set()
        self.highest = 0
        self.numbers = 0

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def handle(self, event: Event) -> None:
        self.now += 0.25
        self.state, actions = step(self.state, event, self.policy, self.now)
        for action in actions:
            self.perform(action)

    def perform(self, action: Action) -> None:
        match action:
            case Reserve(generation):
                assert len(self.processes) + len(self.reserving) < self.policy.max_workers, "a worker too many"
                assert generation > self.highest, "a generation's number is used twice"
                self.highest = generation
                self.reserving.add(generation)
            case Launch(generation):
                assert generation not in self.processes, "a second process"
                self.processes.add(generation)
            case Abandon(generation):
                self.reserving.remove(generation)
            case Abort(generation) | Stop(generation):
                assert generation in self.processes
                assert generation not in self.stopped, "told to exit twice"
                self.stopped.add(generation)
            case Grant(dispatch, generation):
                assert generation in self.processes
                assert generation not in self.stopped, "a lease on a worker that exits"
                self.waiting.remove(dispatch)
                self.held[dispatch] = generation
            case Refuse(dispatch):
                self.waiting.remove(dispatch)
            case EndLeases(generation, dispatches):
                assert generation in self.processes
                for dispatch in dispatches:
                    assert self.held.pop(dispatch) == generation
            case ReplyLoad(request):
                self.loads.remove(request)
            case ReplyUnload(request, _, _, error):
                present = self.unloads.pop(request)
                assert error is not None or not present & self.processes, (
                    "an unload answered before the processes exited"
                )
            case StartTimer() | StopTimer() | MeasureLoad():
                self.set_timer(action)

    def set_timer(self, action: StartTimer | StopTimer | MeasureLoad) -> None:
        match action:
            case StartTimer(timer, token, _, generation):
                self.timers[timer, generation] = token
            case StopTimer(timer, generation):
                del self.timers[timer, generation]
            case MeasureLoad(token):
                assert self.max_workers > 1
                assert not self.measurements, "two measurements at a time"
                self.measurements.add(token)

    def draw(self, data: st.DataObject, generations: set[int]) -> int:
        return data.draw(st.sampled_from(sorted(generations)))

    def in_phase(self, *phases: WorkerPhase) -> set[int]:
        return {worker.generation for worker in self.state.workers if worker.phase in phases}

    def release_all(self, generation: int | None = None) -> None:
        """Release the leases on a worker, or all."""
        for dispatch, holder in sorted(self.held.items()):
            if generation in (None, holder):
                self.held.pop(dispatch, None)
                self.handle(LeaseReleased(dispatch))

    @rule(affinity=st.sampled_from([None, "a", "b"]))
    def a_dispatch_requests_a_lease(self, affinity: str | None = None) -> None:
        dispatch = self.number()
        self.waiting.add(dispatch)
        self.handle(LeaseRequested(dispatch, affinity))

    @rule()
    def work_is_pending(self) -> None:
        before = self.state
        self.handle(PendingWorkDue())
        assert self.state == before or before.phase is Phase.COLD

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def a_waiting_dispatch_leaves(self, data: st.DataObject) -> None:
        dispatch = self.draw(data, self.waiting)
        self.waiting.remove(dispatch)
        self.handle(LeaseCancelled(dispatch))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), left=st.booleans())
    def a_dispatch_ends(self, data: st.DataObject, left: bool) -> None:
        dispatch = self.draw(data, set(self.held))
        del self.held[dispatch]
        self.handle(LeaseCancelled(dispatch) if left else LeaseReleased(dispatch))

    @precondition(lambda self: self.reserving)
    @rule(data=st.data(), available=st.booleans())
    def memory_is_decided(self, data: st.DataObject, available: bool) -> None:
        generation = self.draw(data, self.reserving)
        self.reserving.remove(generation)
        if available:
            self.handle(MemoryReserved(generation))
        else:
            self.handle(WorkerStartFailed(generation, MemoryBudget("not enough"), counts_as_failure=False))

    @precondition(lambda self: self.in_phase(WorkerPhase.ACTIVATING))
    @rule(data=st.data(), fails=st.booleans())
    def an_activation_ends(self, data: st.DataObject, fails: bool) -> None:
        generation = self.draw(data, self.in_phase(WorkerPhase.ACTIVATING))
        if fails:
            self.processes.remove(generation)
            self.handle(WorkerStartFailed(generation, ActivationFailed("broken")))
        else:
            self.handle(WorkerReady(generation))

    @precondition(lambda self: self.in_phase(WorkerPhase.READY, WorkerPhase.DRAINING))
    @rule(data=st.data(), cause=st.sampled_from([Cause.CRASH, Cause.HANG]))
    def a_worker_crashes(self, data: st.DataObject, cause: Cause) -> None:
        generation = self.draw(data, self.in_phase(WorkerPhase.READY, WorkerPhase.DRAINING))
        is_last = self.in_phase(*ALIVE) == {generation}
        queue = set(self.state.waiters) if is_last else set()
        stopping = generation in self.stopped
        self.handle(WorkerLost(generation, cause, HandlerCrashed("gone")))
        assert not queue & self.waiting, "a dispatch in the queue of a crashed worker has no answer"
        if not stopping:
            # The channel ends its dispatches with an error; they release a lease that is gone already.
            self.release_all(generation)

    @precondition(lambda self: self.stopped)
    @rule(data=st.data(), late=st.booleans())
    def a_process_exits(self, data: st.DataObject, late: bool) -> None:
        generation = self.draw(data, self.stopped)
        self.processes.remove(generation)
        self.stopped.remove(generation)
        self.handle(WorkerExited(generation))
        if late:
            before = self.state
            self.handle(WorkerExited(generation))
            self.handle(WorkerReady(generation))
            assert self.state == before, "a late event changed a later worker"

    @precondition(lambda self: self.state.generation > 0)
    @rule(data=st.data())
    def an_old_worker_reports_something_late(self, data: st.DataObject) -> None:
        # Number 0 was never used, and is as old as any.
        old = data.draw(st.integers(0, self.state.generation - 1))
        if self.state.worker(old) is not None:
            return
        events: list[Event] = [
            MemoryReserved(old),
            WorkerReady(old),
            WorkerStartFailed(old, ActivationFailed("late")),
            WorkerLost(old, Cause.CRASH, HandlerCrashed("late")),
            WorkerExited(old),
            Evicted(old),
            MemoryLimitExceeded(old, Cause.RECYCLED),
        ]
        for event in events:
            assert step(self.state, event, self.policy, self.now) == (self.state, []), event

    @precondition(lambda self: self.timers)
    @rule(data=st.data(), late=st.booleans())
    def a_timer_fires(self, data: st.DataObject, late: bool) -> None:
        (timer, generation), token = data.draw(st.sampled_from(sorted(self.timers.items(), key=repr)))
        before = self.state
        if late:
            self.handle(TimerFired(timer, token - 1, generation))
            assert self.state == before, "a timer that was restarted fired early"
        else:
            del self.timers[timer, generation]
            self.handle(TimerFired(timer, token, generation))

    @rule()
    def an_operator_loads(self) -> None:
        request = self.number()
        self.loads.add(request)
        self.handle(LoadRequested(request))

    @rule(mode=st.sampled_from(["drain", "if_idle", "force"]))
    def an_operator_unloads(self, mode: UnloadMode) -> None:
        request = self.number()
        self.unloads[request] = set(self.processes)
        self.handle(UnloadRequested(request, mode, 30.0))

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def the_budget_evicts(self, data: st.DataObject) -> None:
        generation = self.draw(data, self.processes)
        busy = generation in self.held.values() or bool(self.waiting)
        going = generation in self.stopped
        self.handle(Evicted(generation))
        assert going or not busy or generation not in self.stopped, "a busy worker was evicted"

    @rule(pin=st.booleans())
    def an_operator_pins(self, pin: bool) -> None:
        self.policy = replace(self.policy, pin=pin)
        self.handle(PolicyChanged())
        # A pin keeps the handler loaded, not the workers that are there for a load.
        assert not pin or has_surplus(self.state, self.policy) or not any(w.idle_timer for w in self.state.workers), (
            "an idle timer of a pinned handler"
        )

    @precondition(lambda self: self.numbers > 30)
    @rule()
    def the_host_shuts_down(self) -> None:
        self.handle(ShutdownRequested(10.0))

    @invariant()
    def leases_are_those_that_are_held(self) -> None:
        for worker in self.state.workers:
            assert set(worker.leases) == {dispatch for dispatch, on in self.held.items() if on == worker.generation}
            assert len(worker.leases) <= self.policy.max_concurrency
        assert self.state.in_flight == len(self.held)

    @invariant()
    def nothing_that_waits_is_forgotten(self) -> None:
        assert set(self.state.waiters) == self.waiting
        assert len(self.state.waiters) <= self.policy.max_queue
        assert set(self.state.loads) == self.loads
        if self.waiting:
            assert self.reserving or self.processes, "waiters, and no worker is coming or going"
            for worker in self.state.workers:
                if worker.phase is WorkerPhase.READY:
                    assert len(worker.leases) == self.policy.max_concurrency, "a free slot, and a dispatch waits"

    @invariant()
    def phases_and_processes_agree(self) -> None:
        assert self.processes == self.in_phase(WorkerPhase.ACTIVATING, WorkerPhase.READY, WorkerPhase.DRAINING)
        assert self.reserving == self.in_phase(WorkerPhase.WAITING)
        for worker in self.state.workers:
            assert (worker.drain is not None) == (worker.phase is WorkerPhase.DRAINING)

    @invariant()
    def timers_run_only_where_they_have_a_meaning(self) -> None:
        running: dict[tuple[Timer, int | None], int | None] = {(Timer.RETRY, None): self.state.retry_timer}
        for worker in self.state.workers:
            running[Timer.IDLE, worker.generation] = worker.idle_timer
            running[Timer.DRAIN, worker.generation] = worker.drain_timer
            idle = worker.phase is WorkerPhase.READY and not worker.leases
            assert worker.idle_timer is None or idle
            if idle:
                assert worker.idle_timer is not None or last_idle_time(self.policy) is None, "it stays for ever"
                assert worker.idle_timer is None or not self.policy.pin or self.max_workers > 1, "a pinned one goes"
        assert self.timers == {timer: token for timer, token in running.items() if token is not None}
        assert (self.state.retry_at is None) == (self.state.retry_timer is None), "a backoff without an end"
        if self.max_workers == 1:
            assert (self.state.phase is Phase.FAILED) == (self.state.retry_timer is not None)

    def teardown(self) -> None:
        """However it went: when the world comes to rest, nothing waits and nothing is left."""
        self.handle(ShutdownRequested(1.0))
        while self.held:
            self.release_all()
        assert self.processes <= self.stopped, "no dispatch is in flight, and a worker was not told to exit"
        for generation in sorted(self.stopped):
            self.processes.remove(generation)
            self.handle(WorkerExited(generation))
        assert not self.waiting
        assert not self.loads
        assert not self.unloads
        assert not self.reserving
        assert self.state.in_flight == 0
        assert self.state.workers == ()


class TwoWorkers(Handler):
    """A handler with up to two workers."""

    max_workers = 2

    @precondition(lambda self: self.measurements)
    @rule(should_grow=st.sampled_from([True, True, False]))
    def a_measurement_ends(self, should_grow: bool) -> None:
        token, count = self.measurements.pop(), len(self.state.workers)
        expected = should_grow and wants_worker(self.state, self.policy)
        self.handle(LoadMeasured(token, should_grow))
        assert len(self.state.workers) == count + expected

    @precondition(lambda self: self.state.generation > 0)
    @rule()
    def an_old_measurement_ends(self) -> None:
        event = LoadMeasured(0, should_grow=True)
        assert step(self.state, event, self.policy, self.now) == (self.state, [])

    @rule(max_workers=st.integers(1, 4), min_workers=st.integers(0, 2))
    def an_operator_changes_the_numbers(self, max_workers: int, min_workers: int) -> None:
        max_workers = min(max_workers, self.max_workers)
        self.policy = replace(self.policy, max_workers=max_workers, min_workers=min(min_workers, max_workers))
        self.handle(PolicyChanged())
        assert self.state.alive <= max_workers

    @rule(max_concurrency=st.integers(1, 4))
    def an_operator_raises_the_concurrency(self, max_concurrency: int) -> None:
        self.policy = replace(self.policy, max_concurrency=max(max_concurrency, self.policy.max_concurrency))
        self.handle(PolicyChanged())

    @initialize(workers=st.integers(1, 4))
    def the_handler_has_grown(self, workers: int) -> None:
        self.dispatches_arrive_in_a_burst()
        for _ in range(min(workers, self.max_workers)):
            self.the_handler_grows()
            self.dispatches_arrive_in_a_burst()

    @rule()
    def dispatches_arrive_in_a_burst(self) -> None:
        for _ in range(4):
            self.a_dispatch_requests_a_lease()

    @rule()
    def the_handler_grows(self) -> None:
        if self.measurements:
            self.handle(LoadMeasured(self.measurements.pop(), should_grow=True))
        for generation in sorted(self.reserving):
            self.reserving.remove(generation)
            self.handle(MemoryReserved(generation))
        for generation in sorted(self.in_phase(WorkerPhase.ACTIVATING)):
            self.handle(WorkerReady(generation))

    @invariant()
    def a_load_is_watched(self) -> None:
        assert self.measurements == ({self.state.measurement} - {None})
        if self.policy.max_workers > 1:
            assert not wants_worker(self.state, self.policy) or self.measurements, "nobody looks whether to grow"

    @invariant()
    def surplus_workers_leave(self) -> None:
        idle = [w for w in self.state.workers if w.phase is WorkerPhase.READY and not w.leases]
        if len(idle) == self.state.alive and has_surplus(self.state, self.policy):
            leaving = sum(worker.idle_timer is not None for worker in idle)
            assert leaving >= self.state.alive - max(1, self.policy.min_workers), "more stay than are to be kept"


class ThreeWorkers(TwoWorkers):
    """A handler with up to three workers."""

    max_workers = 3


class FourWorkers(TwoWorkers):
    """A handler with up to four workers, of which two stay."""

    max_workers = 4
    min_workers = 2


TestHandler = Handler.TestCase
TestHandler.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestTwoWorkers = TwoWorkers.TestCase
TestTwoWorkers.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestThreeWorkers = ThreeWorkers.TestCase
TestThreeWorkers.settings = TestTwoWorkers.settings
TestFourWorkers = FourWorkers.TestCase
TestFourWorkers.settings = TestTwoWorkers.settings
