"""The lifecycle under any order of events: what must hold after each of them.

The machine plays the supervisor and the world: it performs the actions that
``step`` returns by remembering what they promise, and lets dispatches, operators,
timers, crashes and a shortage of memory happen in any order.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from handler_host.config import HandlerPolicy
from handler_host.lifecycle.actions import (
    Abandon,
    Abort,
    Action,
    EndLeases,
    Grant,
    Launch,
    Refuse,
    ReplyLoad,
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
from handler_host.lifecycle.state import Phase, State, Timer
from handler_host.lifecycle.transitions import step
from handler_host.plugin.errors import ActivationFailed, HandlerCrashed, MemoryBudget
from handler_host.workers.events import Cause


class Handler(RuleBasedStateMachine):
    """One handler, and what the world knows of it."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = HandlerPolicy(max_concurrency=2, max_queue=3, crash_limit=3)
        self.state = State()
        self.now = 0.0
        self.asked: set[int] = set()
        """Dispatches that wait for an answer to their asking."""
        self.held: set[int] = set()
        """Dispatches that were granted a lease and have not given it back."""
        self.loads: set[int] = set()
        self.unloads: set[int] = set()
        self.reserving: int | None = None
        self.process: int | None = None
        """The generation that has a process."""
        self.told_to_go = False
        self.highest = 0
        self.numbers = 0

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def happens(self, event: Event) -> None:
        self.now += 0.25
        self.state, actions = step(self.state, event, self.policy, self.now)
        for action in actions:
            self.perform(action)

    def perform(self, action: Action) -> None:
        match action:
            case Reserve(generation):
                assert self.process is None, "a generation is begun while another has its process"
                assert self.reserving is None
                assert generation > self.highest, "a generation's number is used twice"
                self.highest = self.reserving = generation
            case Launch(generation):
                assert self.process is None, "a second process"
                self.process, self.told_to_go = generation, False
            case Abandon(generation):
                assert self.reserving == generation
                self.reserving = None
            case Abort(generation) | Stop(generation):
                assert self.process == generation
                assert not self.told_to_go, "told to go twice"
                self.told_to_go = True
            case Grant(dispatch, generation):
                assert generation == self.process
                assert not self.told_to_go, "a lease on a worker that goes"
                self.asked.remove(dispatch)
                self.held.add(dispatch)
            case Refuse(dispatch):
                self.asked.remove(dispatch)
            case EndLeases(generation, dispatches):
                assert generation == self.process
                assert dispatches <= self.held
                self.held -= dispatches
            case ReplyLoad(request):
                self.loads.remove(request)
            case ReplyUnload(request, generation, _, error):
                self.unloads.remove(request)
                assert error is not None or self.process is None, "an unload answered before the process was gone"

    @rule()
    def a_dispatch_asks(self) -> None:
        dispatch = self.number()
        self.asked.add(dispatch)
        self.happens(LeaseRequested(dispatch))

    @rule()
    def work_is_pending(self) -> None:
        before = self.state
        self.happens(PendingWorkDue())
        assert self.state == before or before.phase is Phase.COLD

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def one_who_waits_leaves(self, data: st.DataObject) -> None:
        dispatch = data.draw(st.sampled_from(sorted(self.asked)))
        self.asked.remove(dispatch)
        self.happens(LeaseCancelled(dispatch))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), left=st.booleans())
    def a_dispatch_ends(self, data: st.DataObject, left: bool) -> None:
        dispatch = data.draw(st.sampled_from(sorted(self.held)))
        self.held.remove(dispatch)
        self.happens(LeaseCancelled(dispatch) if left else LeaseReleased(dispatch))

    @precondition(lambda self: self.reserving is not None)
    @rule(room=st.booleans())
    def memory_is_decided(self, room: bool) -> None:
        assert self.reserving is not None
        generation, self.reserving = self.reserving, None
        if room:
            self.happens(MemoryReserved(generation))
        else:
            self.happens(WorkerStartFailed(generation, MemoryBudget("no room"), counts_as_failure=False))

    @precondition(lambda self: self.process is not None and self.state.phase is Phase.ACTIVATING)
    @rule(fails=st.booleans())
    def activation_ends(self, fails: bool) -> None:
        assert self.process is not None
        generation = self.process
        if fails:
            self.process = None
            self.happens(WorkerStartFailed(generation, ActivationFailed("broken")))
        else:
            self.happens(WorkerReady(generation))

    @precondition(lambda self: self.process is not None and self.state.phase in (Phase.READY, Phase.DRAINING))
    @rule(cause=st.sampled_from([Cause.CRASH, Cause.HANG]))
    def the_worker_crashes(self, cause: Cause) -> None:
        assert self.process is not None
        waiting = set(self.state.waiters) if self.state.phase is Phase.READY else set()
        was_held, stopping = set(self.held), self.told_to_go
        self.happens(WorkerLost(self.process, cause, HandlerCrashed("gone")))
        assert not waiting & self.asked, "one in the queue of a crashed worker was not told"
        if not stopping:
            # The channel answers those with an error; they give back a lease that is gone already.
            for dispatch in was_held:
                self.held.discard(dispatch)
                self.happens(LeaseReleased(dispatch))

    @precondition(lambda self: self.told_to_go)
    @rule(late=st.booleans())
    def the_process_goes(self, late: bool) -> None:
        assert self.process is not None
        generation, self.process, self.told_to_go = self.process, None, False
        self.happens(WorkerExited(generation))
        if late:
            before = self.state
            self.happens(WorkerExited(generation))
            self.happens(WorkerReady(generation))
            assert self.state == before, "a late event changed a later generation"

    @precondition(lambda self: self.state.generation > 0)
    @rule(data=st.data())
    def an_old_generation_tells_something_late(self, data: st.DataObject) -> None:
        # None is number 0, which is as old as any.
        old = data.draw(st.integers(0, self.state.generation - 1))
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

    @precondition(lambda self: self.state.tokens)
    @rule(data=st.data(), late=st.booleans())
    def a_timer_runs_out(self, data: st.DataObject, late: bool) -> None:
        timer, token = data.draw(st.sampled_from(self.state.tokens))
        before = self.state
        if late:
            self.happens(TimerFired(timer, token - 1))
            assert self.state == before, "a timer that was started anew ran out early"
        else:
            self.happens(TimerFired(timer, token))

    @rule()
    def an_operator_loads(self) -> None:
        request = self.number()
        self.loads.add(request)
        self.happens(LoadRequested(request))

    @rule(mode=st.sampled_from(["drain", "if_idle", "force"]))
    def an_operator_unloads(self, mode: UnloadMode) -> None:
        request = self.number()
        self.unloads.add(request)
        self.happens(UnloadRequested(request, mode, 30.0))

    @precondition(lambda self: self.process is not None)
    @rule()
    def the_budget_evicts(self) -> None:
        assert self.process is not None
        busy = bool(self.held or self.asked)
        going = self.told_to_go
        self.happens(Evicted(self.process))
        assert going or not busy or not self.told_to_go, "a busy worker was evicted"

    @rule(pin=st.booleans())
    def an_operator_pins(self, pin: bool) -> None:
        self.policy = replace(self.policy, pin=pin)
        self.happens(PolicyChanged())
        assert not pin or self.state.token(Timer.IDLE) is None, "a pinned handler's idle clock runs"

    @precondition(lambda self: self.numbers > 30)
    @rule()
    def the_host_shuts_down(self) -> None:
        self.happens(ShutdownRequested(10.0))

    @invariant()
    def leases_are_those_that_are_held(self) -> None:
        assert self.state.leases == self.held
        assert len(self.state.leases) <= self.policy.max_concurrency

    @invariant()
    def nobody_who_waits_is_forgotten(self) -> None:
        assert set(self.state.waiters) == self.asked
        assert len(self.state.waiters) <= self.policy.max_queue
        assert set(self.state.loads) == self.loads
        if self.asked:
            assert self.reserving is not None or self.process is not None, "waiters, and nothing under way for them"

    @invariant()
    def phase_and_process_agree(self) -> None:
        phase = self.state.phase
        assert (self.process is not None) == (phase in (Phase.ACTIVATING, Phase.READY, Phase.DRAINING))
        assert (self.reserving is not None) == (phase is Phase.WAITING)
        assert (self.state.drain is not None) == (phase is Phase.DRAINING)

    @invariant()
    def timers_run_only_where_they_mean_something(self) -> None:
        phase, running = self.state.phase, {timer for timer, _ in self.state.tokens}
        assert Timer.IDLE not in running or (phase is Phase.READY and not self.state.leases)
        assert Timer.RETRY not in running or phase is Phase.FAILED
        assert (phase is Phase.FAILED) <= (Timer.RETRY in running), "a pause without an end"
        if phase is Phase.READY and not self.held:
            assert (Timer.IDLE in running) != self.policy.pin, "an idle worker stays for ever, or a pinned one does not"

    def teardown(self) -> None:
        """However it went: when the world comes to rest, nobody is left waiting."""
        self.happens(ShutdownRequested(1.0))
        for dispatch in sorted(self.held):
            self.held.discard(dispatch)
            self.happens(LeaseReleased(dispatch))
        while self.held:
            for dispatch in sorted(self.held):
                self.held.discard(dispatch)
                self.happens(LeaseReleased(dispatch))
        if self.process is not None:
            assert self.told_to_go, "nothing is under way, and the worker was not told to go"
            generation, self.process = self.process, None
            self.happens(WorkerExited(generation))
        assert not self.asked
        assert not self.loads
        assert not self.unloads
        assert self.reserving is None
        assert self.state.leases == frozenset()


TestHandler = Handler.TestCase
TestHandler.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
