"""The rules of a handler's life, one by one: pure, without a loop, a clock or a process."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
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
    UnloadRequested,
    WorkerExited,
    WorkerLost,
    WorkerReady,
    WorkerStartFailed,
)
from handler_host.lifecycle.handler_transitions import start_worker
from handler_host.lifecycle.state import Drain, HandlerState, Phase, Timer, WorkerPhase, WorkerState
from handler_host.lifecycle.transitions import step
from handler_host.lifecycle.worker_transitions import choose_worker
from handler_host.plugin.errors import (
    ActivationFailed,
    CircuitOpen,
    Draining,
    HandlerBusy,
    HandlerCrashed,
    HandlerUnloaded,
    MemoryBudget,
    QueueFull,
)
from handler_host.workers.events import Cause

Kind = TypeVar("Kind")


class Life:
    """A handler's state, and the actions of its latest event."""

    def __init__(self, **policy: Any) -> None:
        self.policy = HandlerPolicy(**policy)
        self.state = HandlerState()
        self.now = 1000.0
        self.actions: list[Action] = []

    def handle(self, *events: Event) -> Life:
        for event in events:
            self.state, self.actions = step(self.state, event, self.policy, self.now)
        return self

    def actions_of(self, kind: type[Kind]) -> list[Kind]:
        return [action for action in self.actions if isinstance(action, kind)]

    def warm(self) -> Life:
        """Bring the handler to an idle worker of generation 1, as an operator's load does."""
        return self.handle(LoadRequested(900), MemoryReserved(1), WorkerReady(1))

    def token(self, timer: Timer, generation: int | None = None) -> int | None:
        """Return the token of a running timer, by default of the oldest worker."""
        if timer is Timer.RETRY:
            return self.state.retry_timer
        worker = self.state.worker(generation) if generation is not None else next(iter(self.state.workers), None)
        if worker is None:
            return None
        return worker.idle_timer if timer is Timer.IDLE else worker.drain_timer

    def fire(self, timer: Timer) -> Life:
        token = self.token(timer)
        assert token is not None, f"{timer} does not run"
        generation = None if timer is Timer.RETRY else self.state.workers[0].generation
        return self.handle(TimerFired(timer, token, generation))

    @property
    def leases(self) -> set[int]:
        """The dispatches in flight on all workers."""
        return {dispatch for worker in self.state.workers for dispatch in worker.leases}

    @property
    def drain(self) -> Drain | None:
        """The drain of the oldest worker."""
        return self.state.workers[0].drain if self.state.workers else None

    @property
    def granted(self) -> list[int]:
        return [action.dispatch for action in self.actions_of(Grant)]

    @property
    def refused(self) -> dict[int, str]:
        return {action.dispatch: action.error.code for action in self.actions_of(Refuse)}

    @property
    def unloads(self) -> list[int]:
        return [action.request for action in self.actions_of(ReplyUnload)]


class TestActivation:
    def test_memory_is_reserved_before_the_launch(self) -> None:
        handler = Life().handle(LeaseRequested(1))
        assert handler.state.phase is Phase.WAITING
        assert handler.actions == [Reserve(1)]
        assert handler.handle(MemoryReserved(1)).actions == [Launch(1)]

    def test_a_hundred_dispatches_share_one_worker(self) -> None:
        handler = Life(max_queue=100, max_concurrency=100)
        launches = 0
        for dispatch in range(100):
            handler.handle(LeaseRequested(dispatch))
            launches += len(handler.actions_of(Reserve))
        handler.handle(MemoryReserved(1), WorkerReady(1))
        assert launches == 1
        assert handler.granted == list(range(100))

    def test_continues_without_waiters_and_idles_a_full_time(self) -> None:
        handler = Life(idle_after=300.0).handle(LeaseRequested(1), MemoryReserved(1), LeaseCancelled(1))
        assert handler.state.phase is Phase.ACTIVATING
        handler.handle(WorkerReady(1))
        assert handler.actions_of(StartTimer) == [StartTimer(Timer.IDLE, 1, 300.0, 1)]

    def test_without_waiters_nothing_is_launched(self) -> None:
        handler = Life().handle(LeaseRequested(1), LeaseRequested(2), LeaseCancelled(1))
        before = handler.state
        assert before.phase is Phase.WAITING
        handler.handle(LeaseCancelled(2))
        assert handler.actions == [Abandon(1)]
        assert handler.handle(MemoryReserved(1)).actions == []
        assert handler.state.phase is Phase.COLD

    def test_a_lack_of_memory_is_no_failure_of_the_handler(self) -> None:
        handler = Life().handle(LeaseRequested(1), LeaseRequested(2))
        handler.handle(WorkerStartFailed(1, MemoryBudget("not enough memory"), counts_as_failure=False))
        assert handler.refused == {1: "memory_budget", 2: "memory_budget"}
        assert handler.state.phase is Phase.COLD
        assert handler.state.failures == 0

    def test_a_failure_is_retried_after_the_backoff_only(self) -> None:
        handler = Life(backoff=2.0, backoff_max=60.0).handle(LeaseRequested(1), MemoryReserved(1))
        handler.handle(WorkerStartFailed(1, ActivationFailed("no module named x")))
        assert handler.refused == {1: "activation_failed"}
        assert handler.actions_of(StartTimer)[0].delay == 2.0
        handler.now += 0.5
        handler.handle(LeaseRequested(2))
        error = handler.actions_of(Refuse)[0].error
        assert (error.code, error.message, error.retry_after) == ("activation_failed", "no module named x", 1.5)
        handler.fire(Timer.RETRY).handle(LeaseRequested(3))
        assert handler.actions_of(Reserve) == [Reserve(2)]

    def test_the_backoff_doubles_up_to_a_bound_until_a_success(self) -> None:
        handler = Life(backoff=1.0, backoff_max=3.0)
        delays = []
        for generation in range(1, 5):
            handler.handle(LoadRequested(generation), MemoryReserved(generation))
            handler.handle(WorkerStartFailed(generation, ActivationFailed("broken")))
            delays.append(handler.actions_of(StartTimer)[0].delay)
            handler.fire(Timer.RETRY)
        assert delays == [1.0, 2.0, 3.0, 3.0]
        handler.handle(LeaseRequested(1), MemoryReserved(5), WorkerReady(5))
        assert handler.state.failures == 0

    def test_a_load_ends_the_backoff(self) -> None:
        handler = Life().handle(LeaseRequested(1), MemoryReserved(1))
        handler.handle(WorkerStartFailed(1, ActivationFailed("broken")), LoadRequested(1))
        assert handler.actions_of(Reserve) == [Reserve(2)]
        assert handler.actions_of(StopTimer) == [StopTimer(Timer.RETRY)]

    def test_a_failure_during_an_abort_answers_the_unload(self) -> None:
        handler = Life().handle(LeaseRequested(1), MemoryReserved(1), UnloadRequested(2, "drain", 1.0))
        assert handler.actions_of(Abort) == [Abort(1)]
        handler.handle(LeaseRequested(3), WorkerStartFailed(1, ActivationFailed("broken")))
        assert handler.unloads == [2]
        # A new worker serves the dispatch that came meanwhile.
        assert handler.actions[-1] == Reserve(2)
        assert handler.handle(WorkerStartFailed(1, ActivationFailed("late"))).actions == []

    @pytest.mark.parametrize("phase", Phase)
    def test_pending_work_activates_a_cold_handler_only(self, phase: Phase) -> None:
        error = HandlerCrashed("gone")
        workers = () if phase in (Phase.COLD, Phase.FAILED) else (WorkerState(4, WorkerPhase(phase.value)),)
        retry_at = 9.0 if phase is Phase.FAILED else None
        state = HandlerState(workers=workers, generation=4, error=error, retry_at=retry_at)
        assert state.phase is phase
        after, actions = step(state, PendingWorkDue(), HandlerPolicy(), 1.0)
        if phase is Phase.COLD:
            assert (after.phase, actions) == (Phase.WAITING, [Reserve(5)])
        else:
            assert (after, actions) == (state, [])

    def test_pending_work_activates_nothing_during_a_shutdown(self) -> None:
        closing = HandlerState(closing=True)
        assert step(closing, PendingWorkDue(), HandlerPolicy(), 1.0) == (closing, [])


class TestAdmission:
    def test_dispatches_over_the_concurrency_wait_in_order(self) -> None:
        handler = Life(max_concurrency=2).warm().handle(*(LeaseRequested(n) for n in range(1, 5)))
        assert handler.leases == {1, 2}
        assert handler.handle(LeaseReleased(1)).granted == [3]
        assert handler.handle(LeaseCancelled(2)).granted == [4]

    def test_no_dispatch_overtakes_the_queue(self) -> None:
        handler = Life(max_concurrency=1).warm()
        handler.handle(LeaseRequested(1), LeaseRequested(2), LeaseReleased(1), LeaseRequested(3))
        assert handler.leases == {2}
        assert handler.state.waiters == (3,)

    @pytest.mark.parametrize("warm", [True, False])
    def test_a_full_queue_refuses_on_warm_and_cold_handlers(self, warm: bool) -> None:
        handler = Life(max_concurrency=1, max_queue=2)
        if warm:
            handler.warm().handle(LeaseRequested(90))
        handler.handle(LeaseRequested(1), LeaseRequested(2), LeaseRequested(3))
        assert isinstance(handler.actions_of(Refuse)[0].error, QueueFull)
        assert handler.state.waiters == (1, 2)

    def test_a_lease_released_twice_counts_once(self) -> None:
        handler = Life().warm().handle(LeaseRequested(1), LeaseRequested(2), LeaseReleased(1), LeaseReleased(1))
        assert handler.leases == {2}

    def test_a_lowered_concurrency_holds_for_the_queue(self) -> None:
        handler = Life(max_concurrency=4).warm().handle(*(LeaseRequested(n) for n in range(1, 9)))
        handler.policy = replace(handler.policy, max_concurrency=1)
        for dispatch in (1, 2, 3):
            assert handler.handle(LeaseReleased(dispatch)).granted == []
        assert handler.handle(LeaseReleased(4)).granted == [5]


class TestIdle:
    def test_the_timer_runs_between_the_last_lease_and_the_next(self) -> None:
        handler = Life(idle_after=5.0).warm().handle(LeaseRequested(1), LeaseRequested(2), LeaseReleased(1))
        assert handler.token(Timer.IDLE) is None
        handler.handle(LeaseReleased(2))
        assert handler.actions_of(StartTimer)[0].delay == 5.0
        handler.handle(LeaseRequested(3))
        assert handler.actions_of(StopTimer) == [StopTimer(Timer.IDLE, 1)]

    def test_a_late_expiry_does_not_touch_an_earlier_dispatch(self) -> None:
        handler = Life().warm()
        token = handler.token(Timer.IDLE)
        assert token is not None
        handler.handle(LeaseRequested(1), TimerFired(Timer.IDLE, token, 1))
        assert handler.state.phase is Phase.READY
        assert handler.actions == []

    def test_an_expiry_stops_the_worker(self) -> None:
        handler = Life().warm().fire(Timer.IDLE)
        assert handler.actions_of(Stop) == [Stop(1)]
        assert handler.drain is not None
        assert handler.drain.cause is Cause.IDLE

    def test_a_dispatch_during_the_stop_gets_a_new_worker(self) -> None:
        handler = Life().warm().fire(Timer.IDLE).handle(LeaseRequested(7))
        assert handler.actions == []
        handler.handle(WorkerExited(1))
        assert handler.actions_of(Reserve) == [Reserve(2)]
        assert handler.handle(MemoryReserved(2), WorkerReady(2)).granted == [7]

    @pytest.mark.parametrize("policy", [{"pin": True}, {"idle_after": None}])
    def test_a_pinned_handler_and_one_without_expiry_have_no_timer(self, policy: dict[str, Any]) -> None:
        assert Life(**policy).warm().token(Timer.IDLE) is None


class TestUnload:
    def test_of_a_cold_handler_is_answered_at_once(self) -> None:
        handler = Life().handle(UnloadRequested(1, "drain", 30.0))
        assert handler.actions == [ReplyUnload(1, None, None)]

    def test_aborts_an_activation_and_refuses_its_queue(self) -> None:
        handler = Life().handle(LeaseRequested(1), MemoryReserved(1), UnloadRequested(5, "drain", 30.0))
        assert handler.refused == {1: "handler_unloaded"}
        assert handler.actions_of(Abort) == [Abort(1)]
        handler.handle(WorkerExited(1))
        assert handler.unloads == [5]
        assert handler.state.phase is Phase.COLD

    def test_an_activation_complete_after_its_abort_changes_nothing(self) -> None:
        handler = Life().handle(LeaseRequested(1), MemoryReserved(1), UnloadRequested(5, "force", 0.0))
        assert handler.handle(WorkerReady(1)).actions == []
        assert handler.state.phase is Phase.DRAINING

    def test_drain_waits_for_the_last_lease_and_counts(self) -> None:
        handler = Life().warm().handle(LeaseRequested(1), LeaseRequested(2), UnloadRequested(5, "drain", 30.0))
        assert handler.actions_of(Stop) == []
        assert handler.actions_of(StartTimer)[0] == StartTimer(Timer.DRAIN, handler.state.serial, 30.0, 1)
        handler.handle(LeaseReleased(1))
        assert handler.actions_of(Stop) == []
        handler.handle(LeaseReleased(2))
        assert handler.actions_of(Stop) == [Stop(1)]
        drain = handler.handle(WorkerExited(1)).actions_of(ReplyUnload)[0].drain
        assert drain is not None
        assert (drain.drained, drain.killed) == (2, 0)

    def test_the_drain_deadline_ends_the_rest(self) -> None:
        handler = Life().warm().handle(LeaseRequested(1), LeaseRequested(2), UnloadRequested(5, "drain", 30.0))
        handler.handle(LeaseReleased(1)).fire(Timer.DRAIN)
        assert handler.actions_of(EndLeases)[0].dispatches == {2}
        drain = handler.handle(WorkerExited(1)).actions_of(ReplyUnload)[0].drain
        assert drain is not None
        assert (drain.drained, drain.killed) == (1, 1)

    def test_if_idle_on_a_busy_handler_is_refused_and_kills_nothing(self) -> None:
        handler = Life().warm().handle(LeaseRequested(1), UnloadRequested(5, "if_idle", 0.0))
        error = handler.actions_of(ReplyUnload)[0].error
        assert isinstance(error, HandlerBusy)
        assert "1 dispatches in flight, 0 waiting" in error.message
        assert handler.state.phase is Phase.READY

    def test_if_idle_while_an_operators_load_activates_says_so(self) -> None:
        handler = Life().handle(LoadRequested(1), UnloadRequested(5, "if_idle", 0.0))
        error = handler.actions_of(ReplyUnload)[0].error
        assert error is not None
        assert error.message == "the handler is busy: activating; use mode=drain or mode=force"

    def test_force_ends_leases_and_queue_and_stops_at_once(self) -> None:
        handler = Life(max_concurrency=1).warm().handle(LeaseRequested(1), LeaseRequested(2))
        handler.handle(UnloadRequested(5, "force", 0.0))
        assert handler.refused == {2: "handler_unloaded"}
        assert isinstance(handler.actions_of(EndLeases)[0].error, HandlerUnloaded)
        assert handler.actions_of(Stop) == [Stop(1)]

    def test_two_unloads_and_an_expiry_are_one_stop(self) -> None:
        handler = Life().warm()
        token = handler.token(Timer.IDLE)
        assert token is not None
        handler.handle(UnloadRequested(1, "drain", 30.0))
        assert handler.actions_of(Stop) == [Stop(1)]
        handler.handle(UnloadRequested(2, "drain", 30.0))
        assert handler.actions_of(Stop) == []
        assert handler.handle(TimerFired(Timer.IDLE, token, 1)).actions == []
        handler.handle(WorkerExited(1))
        assert handler.unloads == [1, 2]

    def test_force_after_drain_ends_the_wait(self) -> None:
        handler = Life().warm().handle(LeaseRequested(1), UnloadRequested(5, "drain", 30.0))
        handler.handle(UnloadRequested(6, "force", 0.0))
        assert handler.actions_of(EndLeases)[0].dispatches == {1}
        assert handler.actions_of(Stop) == [Stop(1)]

    @pytest.mark.parametrize("busy", [True, False])
    def test_a_late_event_of_an_old_worker_touches_no_new_one(self, busy: bool) -> None:
        handler = Life().warm().fire(Timer.IDLE).handle(WorkerExited(1))
        handler.handle(LeaseRequested(1), MemoryReserved(2), WorkerReady(2))
        if not busy:
            handler.handle(LeaseReleased(1))
        before = handler.state
        late: list[Event] = [WorkerExited(1), WorkerReady(1), MemoryReserved(1), Evicted(1)]
        late += [WorkerLost(1, Cause.CRASH, HandlerCrashed("late")), MemoryLimitExceeded(1, Cause.RECYCLED)]
        for event in late:
            assert handler.handle(event).actions == []
        assert handler.state == before


class TestCrash:
    def test_the_queue_shares_a_crash(self) -> None:
        handler = Life(max_concurrency=1).warm().handle(LeaseRequested(1), LeaseRequested(2))
        handler.handle(WorkerLost(1, Cause.CRASH, HandlerCrashed("exit code 3")))
        assert handler.refused == {2: "handler_crashed"}
        assert handler.leases == set()
        handler.handle(LeaseRequested(3), WorkerExited(1))
        assert handler.actions_of(Reserve) == [Reserve(2)]

    def crash(self, handler: Life) -> Life:
        generation = handler.state.generation + 1
        handler.handle(LoadRequested(generation), MemoryReserved(generation), WorkerReady(generation))
        handler.handle(WorkerLost(generation, Cause.CRASH, HandlerCrashed("exit code 3")))
        return handler.handle(WorkerExited(generation))

    def test_crashes_within_the_window_open_the_circuit_breaker(self) -> None:
        handler = Life(crash_limit=3, crash_window=60.0, circuit_pause=30.0)
        for _ in range(3):
            self.crash(handler)
        assert handler.state.phase is Phase.FAILED
        refusal = handler.handle(LeaseRequested(1)).actions_of(Refuse)[0].error
        assert isinstance(refusal, CircuitOpen)
        assert refusal.retry_after == 30.0
        # Half-open: the next crash opens it again, the next dispatch that ends closes it.
        handler.fire(Timer.RETRY)
        self.crash(handler)
        assert handler.state.phase is Phase.FAILED
        handler.fire(Timer.RETRY)
        generation = handler.state.generation + 1
        handler.handle(LeaseRequested(9), MemoryReserved(generation), WorkerReady(generation), LeaseReleased(9))
        assert handler.state.crashes == ()

    def test_crashes_far_apart_do_not_open_it(self) -> None:
        handler = Life(crash_limit=2, crash_window=60.0)
        for _ in range(4):
            self.crash(handler)
            handler.now += 61.0
        assert handler.state.phase is Phase.COLD

    def test_out_of_memory_is_told_from_a_crash(self) -> None:
        handler = Life().warm().handle(UnloadRequested(5, "drain", 1.0))
        assert handler.actions_of(Stop)
        crashed = Life().warm().handle(LeaseRequested(1), UnloadRequested(5, "drain", 1.0))
        crashed.handle(WorkerLost(1, Cause.OUT_OF_MEMORY, HandlerCrashed("signal 9")), WorkerExited(1))
        drain = crashed.actions_of(ReplyUnload)[0].drain
        assert drain is not None
        assert drain.cause is Cause.OUT_OF_MEMORY
        assert drain.killed == 1


class TestEviction:
    def test_only_an_idle_worker_is_evicted(self) -> None:
        handler = Life().warm().handle(LeaseRequested(1), Evicted(1))
        assert handler.state.phase is Phase.READY
        handler.handle(LeaseReleased(1), Evicted(1))
        assert handler.actions_of(Stop) == [Stop(1)]

    def test_a_pinned_handler_is_never_evicted(self) -> None:
        assert Life(pin=True).warm().handle(Evicted(1)).state.phase is Phase.READY

    def test_unpinned_handler_idles_for_the_full_time(self) -> None:
        handler = Life(idle_after=300.0).warm()
        assert handler.token(Timer.IDLE) is not None
        handler.policy = HandlerPolicy(idle_after=300.0, pin=True)
        handler.handle(PolicyChanged())
        assert handler.actions_of(StopTimer) == [StopTimer(Timer.IDLE, 1)]
        assert handler.handle(Evicted(1)).state.phase is Phase.READY
        handler.policy = HandlerPolicy(idle_after=300.0)
        handler.handle(PolicyChanged())
        assert [action.delay for action in handler.actions_of(StartTimer)] == [300.0]

    def test_pinning_changes_nothing_for_a_busy_or_cold_handler(self) -> None:
        for handler in (Life(pin=True), Life(pin=True).warm().handle(LeaseRequested(1))):
            before = handler.state
            assert handler.handle(PolicyChanged()).actions == []
            assert handler.state == before

    def test_a_new_worker_serves_before_it_can_be_evicted(self) -> None:
        handler = Life().handle(LeaseRequested(1), MemoryReserved(1), WorkerReady(1), Evicted(1))
        assert handler.leases == {1}
        assert handler.state.phase is Phase.READY


class TestShutdown:
    def test_refuses_new_work_and_serves_the_admitted(self) -> None:
        handler = Life(max_concurrency=1).warm().handle(LeaseRequested(1), LeaseRequested(2), ShutdownRequested(10.0))
        assert isinstance(handler.handle(LeaseRequested(3)).actions_of(Refuse)[0].error, Draining)
        assert handler.handle(LeaseReleased(1)).granted == [2]
        assert handler.handle(LeaseReleased(2)).actions_of(Stop) == [Stop(1)]

    def test_the_deadline_ends_the_rest(self) -> None:
        handler = Life(max_concurrency=1).warm().handle(LeaseRequested(1), LeaseRequested(2), ShutdownRequested(10.0))
        handler.fire(Timer.DRAIN)
        assert handler.refused == {2: "draining"}
        assert handler.actions_of(EndLeases)[0].dispatches == {1}
        assert handler.actions_of(Stop) == [Stop(1)]

    def test_aborts_an_activation_and_starts_nothing_again(self) -> None:
        handler = Life().handle(LeaseRequested(1), MemoryReserved(1), ShutdownRequested(10.0))
        assert handler.refused == {1: "draining"}
        assert handler.actions_of(Abort) == [Abort(1)]
        handler.handle(WorkerExited(1), LoadRequested(4))
        assert isinstance(handler.actions_of(ReplyLoad)[0].error, Draining)
        assert handler.state.phase is Phase.COLD


class TestSeveralWorkers:
    """Rules for a handler that has two workers."""

    @staticmethod
    def with_two(ready: bool = True, **policy: Any) -> Life:
        """Return a handler with worker 1 ready, and worker 2 ready or activating."""
        handler = Life(**policy).warm()
        handler.state, _ = start_worker(handler.state)
        handler.handle(MemoryReserved(2))
        return handler.handle(WorkerReady(2)) if ready else handler

    def test_a_dispatch_goes_to_the_worker_with_the_fewest_leases(self) -> None:
        handler = self.with_two(max_concurrency=2)
        for dispatch, generation in ((1, 1), (2, 2), (3, 1), (4, 2)):
            assert handler.handle(LeaseRequested(dispatch)).actions_of(Grant) == [Grant(dispatch, generation)]
        handler.handle(LeaseRequested(5), LeaseReleased(4))
        assert handler.actions_of(Grant) == [Grant(5, 2)]

    @pytest.mark.parametrize("key", ["a", "b", "c", "d", "e"])
    def test_dispatches_with_a_key_share_a_worker(self, key: str) -> None:
        handler = self.with_two(max_concurrency=9, target_requests=4)
        for dispatch in (1, 2, 3):
            handler.handle(LeaseRequested(dispatch, key))
        (first, other) = sorted(handler.state.workers, key=lambda worker: -worker.leases.size)
        assert (len(first.leases), len(other.leases)) == (3, 0)
        # Two more than the other one has are the most that target_requests allows.
        assert handler.handle(LeaseRequested(4, key)).actions_of(Grant) == [Grant(4, other.generation)]
        assert handler.handle(LeaseRequested(5, key)).actions_of(Grant) == [Grant(5, first.generation)]

    def test_keys_are_spread_and_only_those_of_a_lost_worker_move(self) -> None:
        handler = self.with_two(max_workers=3, max_concurrency=999, target_requests=999)
        handler.state, _ = start_worker(handler.state)
        handler.handle(MemoryReserved(3), WorkerReady(3))
        keys = [f"key-{number}" for number in range(150)]

        def homes() -> dict[str, int]:
            return {
                key: worker.generation for key in keys if (worker := choose_worker(handler.state, handler.policy, key))
            }

        before = homes()
        assert all(25 <= list(before.values()).count(generation) <= 80 for generation in (1, 2, 3))
        handler.handle(WorkerLost(2, Cause.CRASH, HandlerCrashed("gone")))
        after = homes()
        assert {key for key in keys if before[key] != after[key]} == {key for key in keys if before[key] == 2}

    def test_a_key_never_exceeds_max_concurrency(self) -> None:
        handler = self.with_two(max_concurrency=1, target_requests=8)
        handler.handle(*(LeaseRequested(number, "a") for number in range(3)))
        assert [worker.leases.size for worker in handler.state.workers] == [1, 1]
        assert handler.state.waiters == (2,)

    def test_each_has_its_own_idle_timer(self) -> None:
        handler = self.with_two().handle(LeaseRequested(1))
        assert handler.token(Timer.IDLE, 1) is None
        token = handler.token(Timer.IDLE, 2)
        assert token is not None
        assert handler.handle(TimerFired(Timer.IDLE, token, 1)).actions == []
        assert handler.handle(TimerFired(Timer.IDLE, token, 2)).actions_of(Stop) == [Stop(2)]
        assert handler.leases == {1}

    @pytest.mark.parametrize("ready", [True, False])
    def test_the_queue_outlives_a_lost_worker(self, ready: bool) -> None:
        handler = self.with_two(ready, max_concurrency=1)
        handler.handle(*(LeaseRequested(number) for number in (1, 2, 3)))
        waiting = handler.state.waiters
        handler.handle(WorkerLost(1, Cause.CRASH, HandlerCrashed("exit code 3")))
        assert (handler.refused, handler.state.waiters) == ({}, waiting)
        assert handler.handle(WorkerExited(1)).actions == []
        handler.handle(LeaseReleased(2) if ready else WorkerReady(2))
        assert handler.granted == [waiting[0]]

    def test_a_failed_activation_refuses_nothing_while_one_serves(self) -> None:
        handler = self.with_two(ready=False, max_concurrency=1).handle(LeaseRequested(1), LeaseRequested(2))
        handler.handle(WorkerStartFailed(2, ActivationFailed("broken")))
        assert handler.refused == {}
        assert handler.state.phase is Phase.READY
        # During the backoff the other worker serves; when it is gone, the queue has the reason.
        assert handler.handle(LeaseReleased(1)).granted == [2]
        handler.handle(LeaseRequested(3), WorkerLost(1, Cause.KILLED, HandlerCrashed("gone")), LeaseRequested(4))
        assert handler.refused == {4: "activation_failed"}

    def test_the_last_exit_during_a_backoff_refuses_the_queue(self) -> None:
        handler = self.with_two(ready=False, max_concurrency=1, backoff=8.0).handle(
            LeaseRequested(1), LeaseRequested(2)
        )
        handler.handle(WorkerStartFailed(2, ActivationFailed("broken")), MemoryLimitExceeded(1, Cause.RECYCLED))
        handler.handle(LeaseReleased(1), WorkerExited(1))
        assert handler.refused == {2: "activation_failed"}
        assert handler.actions_of(Refuse)[0].error.retry_after == 8.0

    def test_an_unload_ends_the_backoff(self) -> None:
        handler = self.with_two(ready=False).handle(WorkerStartFailed(2, ActivationFailed("broken")))
        handler.handle(UnloadRequested(7, "drain", 1.0), LeaseRequested(3))
        assert handler.handle(WorkerExited(1)).actions_of(Reserve) == [Reserve(3)]

    def test_an_unload_is_answered_by_the_last_exit_for_all(self) -> None:
        handler = self.with_two().handle(LeaseRequested(1), LeaseRequested(2), UnloadRequested(5, "drain", 30.0))
        assert [action.generation for action in handler.actions_of(StartTimer)] == [1, 2]
        handler.handle(LeaseReleased(1))
        assert handler.handle(WorkerExited(1)).unloads == []
        handler.handle(UnloadRequested(6, "force", 0.0))
        (reply, other) = handler.handle(WorkerExited(2)).actions_of(ReplyUnload)
        assert (reply.request, other.request) == (5, 6)
        assert reply.drain is not None
        assert (reply.drain.drained, reply.drain.killed) == (1, 1)

    def test_two_unloads_count_each_dispatch_once(self) -> None:
        handler = self.with_two().handle(LeaseRequested(1), LeaseRequested(2))
        handler.handle(UnloadRequested(5, "drain", 30.0), UnloadRequested(6, "drain", 30.0))
        handler.handle(LeaseReleased(1), WorkerExited(1), LeaseReleased(2))
        replies = handler.handle(WorkerExited(2)).actions_of(ReplyUnload)
        assert [reply.request for reply in replies] == [5, 6]
        assert [reply.drain.drained for reply in replies if reply.drain is not None] == [2, 2]

    def test_crashes_of_all_workers_open_one_circuit_breaker(self) -> None:
        handler = self.with_two(crash_limit=2)
        for generation in (1, 2):
            handler.handle(WorkerLost(generation, Cause.CRASH, HandlerCrashed("gone")), WorkerExited(generation))
        assert isinstance(handler.handle(LeaseRequested(1)).actions_of(Refuse)[0].error, CircuitOpen)

    def test_a_shutdown_serves_the_queue_with_all_workers(self) -> None:
        handler = self.with_two(max_concurrency=1)
        handler.handle(LeaseRequested(1), LeaseRequested(2), LeaseRequested(3), ShutdownRequested(10.0))
        assert handler.handle(LeaseReleased(2)).granted == [3]
        assert handler.handle(LeaseReleased(3)).actions_of(Stop) == [Stop(2)]
        assert handler.handle(LeaseReleased(1)).actions_of(Stop) == [Stop(1)]


class TestGrowth:
    @staticmethod
    def loaded(dispatches: int, **policy: Any) -> Life:
        """Return a handler with one ready worker and these dispatches, of which two fit into a worker."""
        keys = {"max_workers": 3, "max_concurrency": 2, "target_requests": 2, "grow_after": 5.0, **policy}
        return Life(**keys).warm().handle(*(LeaseRequested(number) for number in range(1, dispatches + 1)))

    def grown(self, workers: int, **policy: Any) -> Life:
        """Return a handler that has grown to so many ready workers under two dispatches for each."""
        handler = self.loaded(2 * workers + 1, **policy)
        for generation in range(2, workers + 1):
            handler.handle(self.measured(handler), MemoryReserved(generation), WorkerReady(generation))
        return handler

    @staticmethod
    def measured(handler: Life, should_grow: bool = True) -> LoadMeasured:
        assert handler.state.measurement is not None, "the load is not measured"
        return LoadMeasured(handler.state.measurement, should_grow)

    def test_a_load_beyond_the_target_is_measured(self) -> None:
        assert self.loaded(2).state.measurement is None
        handler = self.loaded(3)
        (measurement,) = handler.actions_of(MeasureLoad)
        assert measurement.seconds == 5.0
        assert handler.handle(LeaseRequested(4)).actions_of(MeasureLoad) == [], "one measurement at a time"
        handler.handle(self.measured(handler))
        assert handler.actions_of(Reserve) == [Reserve(2)]
        assert handler.state.measurement is None, "the new worker may suffice"

    def test_workers_that_wait_for_their_provider_are_measured_again(self) -> None:
        handler = self.loaded(3)
        handler.handle(self.measured(handler, should_grow=False))
        assert handler.actions_of(Reserve) == []
        assert len(handler.actions_of(MeasureLoad)) == 1

    def test_a_load_that_has_ended_adds_no_worker(self) -> None:
        handler = self.loaded(3)
        measured = self.measured(handler)
        handler.handle(LeaseReleased(1), LeaseReleased(2), measured)
        assert (handler.actions, handler.state.measurement) == ([], None)

    @pytest.mark.parametrize("event", [ShutdownRequested(10.0), UnloadRequested(900, "drain", 30.0)])
    def test_nothing_grows_while_the_handler_leaves(self, event: Event) -> None:
        handler = self.loaded(3)
        measured = self.measured(handler)
        assert handler.handle(event, measured).actions_of(Reserve) == []

    def test_a_failed_activation_pauses_growth(self) -> None:
        handler = self.loaded(5, backoff=8.0)
        handler.handle(self.measured(handler), MemoryReserved(2), WorkerStartFailed(2, ActivationFailed("broken")))
        assert (handler.refused, handler.actions_of(MeasureLoad)) == ({}, [])
        assert len(handler.fire(Timer.RETRY).actions_of(MeasureLoad)) == 1

    def test_a_lack_of_memory_refuses_nothing_and_is_no_failure(self) -> None:
        handler = self.loaded(5)
        failed = WorkerStartFailed(2, MemoryBudget("not enough"), counts_as_failure=False)
        handler.handle(self.measured(handler), failed)
        assert (handler.refused, handler.state.retry_at) == ({}, None)
        assert len(handler.actions_of(MeasureLoad)) == 1

    def test_a_draining_worker_counts(self) -> None:
        handler = self.grown(3)
        handler.handle(MemoryLimitExceeded(3, Cause.RECYCLED), *(LeaseRequested(number) for number in range(20, 30)))
        assert handler.state.measurement is None
        assert len(handler.state.workers) == 3

    def test_case_1_a_burst_on_a_cold_handler_starts_one_worker(self) -> None:
        handler = Life(max_workers=3, target_requests=1)
        reserved = [len(handler.handle(LeaseRequested(number)).actions_of(Reserve)) for number in range(100)]
        assert sum(reserved) == 1
        assert len(handler.handle(MemoryReserved(1), WorkerReady(1)).granted) == 100

    def test_case_2_the_third_worker_stays(self) -> None:
        handler = self.grown(2)
        assert handler.state.waiters == (5,)
        handler.handle(self.measured(handler), MemoryReserved(3))
        assert handler.handle(LeaseCancelled(5)).actions == []
        (timer,) = handler.handle(WorkerReady(3)).actions_of(StartTimer)
        assert (timer.timer, timer.generation, timer.delay) == (Timer.IDLE, 3, handler.policy.shrink_after)

    def test_case_3_without_waiters_the_third_worker_is_not_launched(self) -> None:
        handler = self.grown(2)
        handler.handle(self.measured(handler))
        assert handler.handle(LeaseCancelled(5)).actions == [Abandon(3)]
        assert handler.handle(MemoryReserved(3)).actions == []
        assert handler.leases == {1, 2, 3, 4}

    def test_case_10_a_dispatch_while_all_stop_waits_for_an_exit(self) -> None:
        handler = self.grown(3).handle(UnloadRequested(900, "force", 0.0), LeaseRequested(50))
        assert handler.state.waiters == (50,)
        assert handler.handle(WorkerExited(2)).actions_of(Reserve) == [Reserve(4)]

    def test_case_13_an_unload_aborts_one_and_waits_for_all(self) -> None:
        handler = self.grown(2)
        handler.handle(self.measured(handler), MemoryReserved(3))
        handler.handle(UnloadRequested(900, "force", 0.0))
        assert (handler.actions_of(Stop), handler.actions_of(Abort)) == ([Stop(1), Stop(2)], [Abort(3)])
        assert handler.refused == {5: "handler_unloaded"}
        assert handler.handle(WorkerReady(3)).actions == []
        failed = WorkerStartFailed(3, ActivationFailed("aborted"))
        assert [handler.handle(event).unloads for event in (failed, WorkerExited(1))] == [[], []]
        assert handler.handle(WorkerExited(2)).unloads == [900]

    def test_case_14_two_unloads_and_an_expiry_stop_each_worker_once(self) -> None:
        handler = self.grown(3)
        handler.handle(*(LeaseReleased(number) for number in range(1, 8)))
        tokens = [(worker.generation, worker.idle_timer) for worker in handler.state.workers]
        stops = []
        for event in (UnloadRequested(901, "drain", 1.0), UnloadRequested(902, "force", 0.0)):
            stops += handler.handle(event).actions_of(Stop)
        for generation, token in tokens:
            assert token is not None
            stops += handler.handle(TimerFired(Timer.IDLE, token, generation)).actions_of(Stop)
        assert stops == [Stop(1), Stop(2), Stop(3)]
        assert [handler.handle(WorkerExited(generation)).unloads for generation in (2, 1, 3)] == [[], [], [901, 902]]

    def test_case_15_if_idle_looks_at_all_workers(self) -> None:
        handler = self.grown(3).handle(*(LeaseReleased(number) for number in range(1, 7)))
        assert handler.leases == {7}
        (reply,) = handler.handle(UnloadRequested(900, "if_idle", 1.0)).actions_of(ReplyUnload)
        assert isinstance(reply.error, HandlerBusy)

    def test_case_21_an_eviction_spares_a_first_dispatch(self) -> None:
        handler = self.loaded(3)
        handler.handle(self.measured(handler), MemoryReserved(2), WorkerReady(2))
        assert handler.state.worker(2) is not None
        assert handler.handle(Evicted(2)).actions == [], "it has just got the dispatch that waited"

    def test_case_27_a_crash_of_one_worker_ends_its_dispatches_only(self) -> None:
        handler = self.grown(3)
        lost = handler.state.workers[1].leases
        handler.handle(WorkerLost(2, Cause.CRASH, HandlerCrashed("gone")))
        assert (handler.refused, handler.leases & set(lost)) == ({}, set())
        assert handler.state.in_flight + len(handler.state.waiters) == 7 - len(lost)

    def test_case_29_crashes_of_three_workers_open_one_circuit(self) -> None:
        handler = self.grown(3, crash_limit=2)
        for generation in (2, 3):
            handler.handle(WorkerLost(generation, Cause.CRASH, HandlerCrashed("gone")), WorkerExited(generation))
        assert isinstance(handler.state.error, CircuitOpen)
        assert handler.handle(self.measured(handler)).actions == [], "an open circuit stops growth"
        handler.handle(LeaseReleased(1))
        assert handler.refused == {}
        handler.handle(LeaseReleased(2), LeaseReleased(3), LeaseRequested(60))
        assert handler.refused == {}, "the worker that is left serves"

    def test_case_34_a_shutdown_aborts_activations_only(self) -> None:
        handler = self.grown(2)
        handler.handle(LeaseRequested(20), self.measured(handler), MemoryReserved(3), ShutdownRequested(10.0))
        assert handler.actions_of(Abort) == [Abort(3)]
        assert handler.refused == {}


class TestShrinking:
    grown = TestGrowth().grown

    def idle(self, workers: int, **policy: Any) -> Life:
        """Return a handler with so many idle workers."""
        handler = self.grown(workers, **{"shrink_after": 60.0, "idle_after": 300.0, **policy})
        return handler.handle(*(LeaseReleased(number) for number in range(1, 2 * workers + 2)))

    def expire(self, handler: Life, generation: int) -> Life:
        token = handler.token(Timer.IDLE, generation)
        assert token is not None, "its idle timer does not run"
        return handler.handle(TimerFired(Timer.IDLE, token, generation))

    def test_the_last_one_stays_for_the_rest_of_its_idle_time(self) -> None:
        handler = self.idle(2)
        assert self.expire(handler, 1).actions_of(Stop) == [Stop(1)]
        (timer,) = self.expire(handler, 2).actions_of(StartTimer)
        assert (timer.generation, timer.delay) == (2, 240.0)
        assert self.expire(handler, 2).actions_of(Stop) == [Stop(2)]

    @pytest.mark.parametrize("policy", [{"idle_after": None}, {"min_workers": 1}])
    def test_the_last_one_stays_for_ever_if_configured(self, policy: dict[str, Any]) -> None:
        handler = self.idle(2, **policy)
        self.expire(handler, 1)
        assert self.expire(handler, 2).actions == []
        assert handler.state.phase is Phase.READY

    def test_a_pin_keeps_one(self) -> None:
        handler = self.idle(2)
        handler.policy = replace(handler.policy, pin=True)
        handler.handle(PolicyChanged())
        self.expire(handler, 1)
        assert self.expire(handler, 2).actions == []

    def test_fewer_workers_drain_those_with_the_fewest_leases(self) -> None:
        handler = self.grown(3, drain_timeout=9.0).handle(LeaseReleased(5), LeaseReleased(7))
        leases = {worker.generation: len(worker.leases) for worker in handler.state.workers}
        least = min(leases, key=lambda generation: (leases[generation], -generation))
        handler.policy = replace(handler.policy, max_workers=2)
        handler.handle(PolicyChanged())
        drains = {worker.generation: worker.drain for worker in handler.state.workers if worker.drain is not None}
        assert {generation: drain.cause for generation, drain in drains.items()} == {least: Cause.SURPLUS}
        assert [action.delay for action in handler.actions_of(StartTimer)] in ([], [9.0])

    def test_a_higher_concurrency_serves_the_queue_at_once(self) -> None:
        handler = Life(max_concurrency=1).warm().handle(LeaseRequested(1), LeaseRequested(2), LeaseRequested(3))
        handler.policy = replace(handler.policy, max_concurrency=2)
        assert handler.handle(PolicyChanged()).granted == [2]
