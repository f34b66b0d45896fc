"""The rules of a handler's life, one by one: pure, without a loop, a clock or a process."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

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
    LoadRequested,
    MemoryLimitExceeded,
    MemoryReserved,
    PolicyChanged,
    ShutdownRequested,
    TimerFired,
    UnloadRequested,
    WorkerExited,
    WorkerLost,
    WorkerReady,
    WorkerStartFailed,
)
from handler_host.lifecycle.state import Phase, State, Timer
from handler_host.lifecycle.transitions import step
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

Found = TypeVar("Found")


class Life:
    """A handler's state, the actions of its last event, and all dispatches that were granted or refused."""

    def __init__(self, **policy: Any) -> None:
        self.policy = HandlerPolicy(**policy)
        self.state = State()
        self.now = 1000.0
        self.actions: list[Action] = []

    def happens(self, *events: Event) -> Life:
        for event in events:
            self.state, self.actions = step(self.state, event, self.policy, self.now)
        return self

    def did(self, kind: type[Found]) -> list[Found]:
        return [action for action in self.actions if isinstance(action, kind)]

    def warm(self) -> Life:
        """Bring it to an idle worker of generation 1, the way an operator's load does."""
        return self.happens(LoadRequested(900), MemoryReserved(1), WorkerReady(1))

    def timer_runs_out(self, timer: Timer) -> Life:
        token = self.state.token(timer)
        assert token is not None, f"{timer} does not run"
        return self.happens(TimerFired(timer, token))


def granted(handler: Life) -> list[int]:
    return [action.dispatch for action in handler.did(Grant)]


def refused(handler: Life) -> dict[int, str]:
    return {action.dispatch: action.error.code for action in handler.did(Refuse)}


class TestActivation:
    def test_an_activation_that_fails_by_itself_while_it_is_aborted_answers_the_unload(self) -> None:
        handler = Life().happens(LeaseRequested(1), MemoryReserved(1), UnloadRequested(2, "drain", 1.0))
        assert handler.did(Abort) == [Abort(1)]
        handler.happens(LeaseRequested(3), WorkerStartFailed(1, ActivationFailed("broken")))
        assert [response.request for response in handler.did(ReplyUnload)] == [2]
        # Who came meanwhile is served by a new generation.
        assert handler.actions[-1] == Reserve(2)
        assert handler.happens(WorkerStartFailed(1, ActivationFailed("late"))).actions == []

    def test_first_dispatch_on_a_cold_handler_looks_for_room_before_anything_is_launched(self) -> None:
        handler = Life().happens(LeaseRequested(1))
        assert handler.state.phase is Phase.WAITING
        assert handler.actions == [Reserve(1)]
        assert handler.happens(MemoryReserved(1)).actions == [Launch(1)]

    def test_hundred_dispatches_on_a_cold_handler_make_one_generation_that_answers_all(self) -> None:
        handler = Life(max_queue=100, max_concurrency=100)
        launches = 0
        for dispatch in range(100):
            handler.happens(LeaseRequested(dispatch))
            launches += len(handler.did(Reserve))
        handler.happens(MemoryReserved(1), WorkerReady(1))
        assert launches == 1
        assert granted(handler) == list(range(100))

    def test_activation_goes_on_when_all_who_waited_have_left_and_then_idles_a_full_time(self) -> None:
        handler = Life(idle_after=300.0).happens(LeaseRequested(1), MemoryReserved(1), LeaseCancelled(1))
        assert handler.state.phase is Phase.ACTIVATING
        handler.happens(WorkerReady(1))
        assert handler.did(StartTimer) == [StartTimer(Timer.IDLE, 1, 300.0)]

    def test_nothing_is_launched_when_all_leave_while_it_waits_for_memory(self) -> None:
        handler = Life().happens(LeaseRequested(1), LeaseRequested(2), LeaseCancelled(1))
        assert handler.state.phase is Phase.WAITING
        handler.happens(LeaseCancelled(2))
        assert handler.actions == [Abandon(1)]
        assert handler.happens(MemoryReserved(1)).actions == []
        assert handler.state.phase is Phase.COLD

    def test_no_room_refuses_all_and_does_not_count_against_the_handler(self) -> None:
        handler = Life().happens(LeaseRequested(1), LeaseRequested(2))
        handler.happens(WorkerStartFailed(1, MemoryBudget("no room"), counts_as_failure=False))
        assert refused(handler) == {1: "memory_budget", 2: "memory_budget"}
        assert handler.state.phase is Phase.COLD
        assert handler.state.failures == 0

    def test_a_failed_activation_refuses_all_and_is_tried_again_only_after_a_pause(self) -> None:
        handler = Life(backoff=2.0, backoff_max=60.0).happens(LeaseRequested(1), MemoryReserved(1))
        handler.happens(WorkerStartFailed(1, ActivationFailed("no module named x")))
        assert refused(handler) == {1: "activation_failed"}
        assert handler.did(StartTimer)[0].delay == 2.0
        handler.now += 0.5
        handler.happens(LeaseRequested(2))
        error = handler.did(Refuse)[0].error
        assert (error.code, error.message, error.retry_after) == ("activation_failed", "no module named x", 1.5)
        handler.timer_runs_out(Timer.RETRY).happens(LeaseRequested(3))
        assert handler.did(Reserve) == [Reserve(2)]

    def test_pauses_between_failed_activations_double_up_to_a_bound_and_start_over_after_a_success(self) -> None:
        handler = Life(backoff=1.0, backoff_max=3.0)
        delays = []
        for generation in range(1, 5):
            handler.happens(LoadRequested(generation), MemoryReserved(generation))
            handler.happens(WorkerStartFailed(generation, ActivationFailed("broken")))
            delays.append(handler.did(StartTimer)[0].delay)
            handler.timer_runs_out(Timer.RETRY)
        assert delays == [1.0, 2.0, 3.0, 3.0]
        handler.happens(LeaseRequested(1), MemoryReserved(5), WorkerReady(5))
        assert handler.state.failures == 0

    def test_an_operators_load_tries_at_once_what_would_be_paused(self) -> None:
        handler = Life().happens(LeaseRequested(1), MemoryReserved(1))
        handler.happens(WorkerStartFailed(1, ActivationFailed("broken")), LoadRequested(1))
        assert handler.did(Reserve) == [Reserve(2)]
        assert handler.did(StopTimer) == [StopTimer(Timer.RETRY)]


class TestAdmission:
    def test_dispatches_over_the_concurrency_wait_in_order(self) -> None:
        handler = Life(max_concurrency=2).warm().happens(*(LeaseRequested(n) for n in range(1, 5)))
        assert handler.state.leases == {1, 2}
        assert granted(handler.happens(LeaseReleased(1))) == [3]
        assert granted(handler.happens(LeaseCancelled(2))) == [4]

    def test_nobody_overtakes_who_waits(self) -> None:
        handler = (
            Life(max_concurrency=1)
            .warm()
            .happens(LeaseRequested(1), LeaseRequested(2), LeaseReleased(1), LeaseRequested(3))
        )
        assert handler.state.leases == {2}
        assert handler.state.waiters == (3,)

    @pytest.mark.parametrize("warm", [True, False])
    def test_a_full_queue_refuses_on_warm_and_cold_handlers_alike(self, warm: bool) -> None:
        handler = Life(max_concurrency=1, max_queue=2)
        if warm:
            handler.warm().happens(LeaseRequested(90))
        handler.happens(LeaseRequested(1), LeaseRequested(2), LeaseRequested(3))
        assert isinstance(handler.did(Refuse)[0].error, QueueFull)
        assert handler.state.waiters == (1, 2)

    def test_a_lease_given_back_twice_counts_once(self) -> None:
        handler = Life().warm().happens(LeaseRequested(1), LeaseRequested(2), LeaseReleased(1), LeaseReleased(1))
        assert handler.state.leases == {2}


class TestIdle:
    def test_idle_clock_starts_at_the_end_of_the_last_lease_and_stops_at_the_next(self) -> None:
        handler = Life(idle_after=5.0).warm().happens(LeaseRequested(1), LeaseRequested(2), LeaseReleased(1))
        assert handler.state.token(Timer.IDLE) is None
        handler.happens(LeaseReleased(2))
        assert handler.did(StartTimer)[0].delay == 5.0
        handler.happens(LeaseRequested(3))
        assert handler.did(StopTimer) == [StopTimer(Timer.IDLE)]

    def test_a_late_idle_expiry_does_not_touch_a_dispatch_that_came_before_it(self) -> None:
        handler = Life().warm()
        token = handler.state.token(Timer.IDLE)
        assert token is not None
        handler.happens(LeaseRequested(1), TimerFired(Timer.IDLE, token))
        assert handler.state.phase is Phase.READY
        assert handler.actions == []

    def test_idle_expiry_stops_the_worker(self) -> None:
        handler = Life().warm().timer_runs_out(Timer.IDLE)
        assert handler.did(Stop) == [Stop(1)]
        assert handler.state.drain is not None
        assert handler.state.drain.cause is Cause.IDLE

    def test_a_dispatch_that_comes_while_the_worker_stops_is_answered_by_a_new_generation(self) -> None:
        handler = Life().warm().timer_runs_out(Timer.IDLE).happens(LeaseRequested(7))
        assert handler.actions == []
        handler.happens(WorkerExited(1))
        assert handler.did(Reserve) == [Reserve(2)]
        assert granted(handler.happens(MemoryReserved(2), WorkerReady(2))) == [7]

    @pytest.mark.parametrize("policy", [{"pin": True}, {"idle_after": None}])
    def test_a_pinned_handler_and_one_that_never_expires_have_no_idle_clock(self, policy: dict[str, Any]) -> None:
        assert Life(**policy).warm().state.token(Timer.IDLE) is None


class TestUnload:
    def test_unload_of_a_cold_handler_is_answered_at_once(self) -> None:
        handler = Life().happens(UnloadRequested(1, "drain", 30.0))
        assert handler.actions == [ReplyUnload(1, None, None)]

    def test_unload_while_activating_aborts_and_tells_who_waited(self) -> None:
        handler = Life().happens(LeaseRequested(1), MemoryReserved(1), UnloadRequested(5, "drain", 30.0))
        assert refused(handler) == {1: "handler_unloaded"}
        assert handler.did(Abort) == [Abort(1)]
        handler.happens(WorkerExited(1))
        assert [response.request for response in handler.did(ReplyUnload)] == [5]
        assert handler.state.phase is Phase.COLD

    def test_an_activation_that_ends_after_its_abort_changes_nothing(self) -> None:
        handler = Life().happens(LeaseRequested(1), MemoryReserved(1), UnloadRequested(5, "force", 0.0))
        assert handler.happens(WorkerReady(1)).actions == []
        assert handler.state.phase is Phase.DRAINING

    def test_drain_waits_for_the_last_lease_and_says_how_many_came_to_their_end(self) -> None:
        handler = Life().warm().happens(LeaseRequested(1), LeaseRequested(2), UnloadRequested(5, "drain", 30.0))
        assert handler.did(Stop) == []
        assert handler.did(StartTimer)[0] == StartTimer(Timer.DRAIN, handler.state.serial, 30.0)
        handler.happens(LeaseReleased(1))
        assert handler.did(Stop) == []
        handler.happens(LeaseReleased(2))
        assert handler.did(Stop) == [Stop(1)]
        drain = handler.happens(WorkerExited(1)).did(ReplyUnload)[0].drain
        assert drain is not None
        assert (drain.drained, drain.killed) == (2, 0)

    def test_the_drain_deadline_ends_what_is_still_under_way(self) -> None:
        handler = Life().warm().happens(LeaseRequested(1), LeaseRequested(2), UnloadRequested(5, "drain", 30.0))
        handler.happens(LeaseReleased(1)).timer_runs_out(Timer.DRAIN)
        assert handler.did(EndLeases)[0].dispatches == {2}
        drain = handler.happens(WorkerExited(1)).did(ReplyUnload)[0].drain
        assert drain is not None
        assert (drain.drained, drain.killed) == (1, 1)

    def test_if_idle_on_a_busy_handler_is_refused_and_kills_nothing(self) -> None:
        handler = Life().warm().happens(LeaseRequested(1), UnloadRequested(5, "if_idle", 0.0))
        response = handler.did(ReplyUnload)[0]
        assert isinstance(response.error, HandlerBusy)
        assert handler.state.phase is Phase.READY

    def test_force_ends_leases_and_queue_with_an_error_and_stops_at_once(self) -> None:
        handler = Life(max_concurrency=1).warm().happens(LeaseRequested(1), LeaseRequested(2))
        handler.happens(UnloadRequested(5, "force", 0.0))
        assert refused(handler) == {2: "handler_unloaded"}
        assert isinstance(handler.did(EndLeases)[0].error, HandlerUnloaded)
        assert handler.did(Stop) == [Stop(1)]

    def test_two_unloads_and_an_idle_expiry_are_one_teardown_with_an_answer_each(self) -> None:
        handler = Life().warm()
        token = handler.state.token(Timer.IDLE)
        assert token is not None
        handler.happens(UnloadRequested(1, "drain", 30.0))
        assert handler.did(Stop) == [Stop(1)]
        handler.happens(UnloadRequested(2, "drain", 30.0))
        assert handler.did(Stop) == []
        assert handler.happens(TimerFired(Timer.IDLE, token)).actions == []
        handler.happens(WorkerExited(1))
        assert [response.request for response in handler.did(ReplyUnload)] == [1, 2]

    def test_force_after_drain_ends_the_wait(self) -> None:
        handler = Life().warm().happens(LeaseRequested(1), UnloadRequested(5, "drain", 30.0))
        handler.happens(UnloadRequested(6, "force", 0.0))
        assert handler.did(EndLeases)[0].dispatches == {1}
        assert handler.did(Stop) == [Stop(1)]

    @pytest.mark.parametrize("busy", [True, False])
    def test_nothing_late_of_an_old_generation_touches_a_new_one(self, busy: bool) -> None:
        handler = Life().warm().timer_runs_out(Timer.IDLE).happens(WorkerExited(1))
        handler.happens(LeaseRequested(1), MemoryReserved(2), WorkerReady(2))
        if not busy:
            handler.happens(LeaseReleased(1))
        before = handler.state
        crash, grown = (
            WorkerLost(1, Cause.CRASH, HandlerCrashed("late")),
            MemoryLimitExceeded(1, Cause.RECYCLED),
        )
        for late in (
            WorkerExited(1),
            crash,
            WorkerReady(1),
            MemoryReserved(1),
            Evicted(1),
            grown,
        ):
            assert handler.happens(late).actions == []
        assert handler.state == before


class TestCrash:
    def test_who_is_queued_shares_the_crash_and_the_next_one_activates_anew(self) -> None:
        handler = Life(max_concurrency=1).warm().happens(LeaseRequested(1), LeaseRequested(2))
        handler.happens(WorkerLost(1, Cause.CRASH, HandlerCrashed("exit code 3")))
        assert refused(handler) == {2: "handler_crashed"}
        assert handler.state.leases == frozenset()
        handler.happens(LeaseRequested(3), WorkerExited(1))
        assert handler.did(Reserve) == [Reserve(2)]

    def crash(self, handler: Life) -> Life:
        generation = handler.state.generation + 1
        handler.happens(LoadRequested(generation), MemoryReserved(generation), WorkerReady(generation))
        handler.happens(WorkerLost(generation, Cause.CRASH, HandlerCrashed("exit code 3")))
        return handler.happens(WorkerExited(generation))

    def test_crashes_within_the_window_open_the_circuit_and_one_trial_decides(self) -> None:
        handler = Life(crash_limit=3, crash_window=60.0, circuit_pause=30.0)
        for _ in range(3):
            self.crash(handler)
        assert handler.state.phase is Phase.FAILED
        refusal = handler.happens(LeaseRequested(1)).did(Refuse)[0].error
        assert isinstance(refusal, CircuitOpen)
        assert refusal.retry_after == 30.0
        handler.timer_runs_out(Timer.RETRY)
        self.crash(handler)
        assert handler.state.phase is Phase.FAILED
        handler.timer_runs_out(Timer.RETRY)
        generation = handler.state.generation + 1
        handler.happens(
            LeaseRequested(9),
            MemoryReserved(generation),
            WorkerReady(generation),
            LeaseReleased(9),
        )
        assert handler.state.crashes == ()

    def test_crashes_far_apart_do_not_open_the_circuit(self) -> None:
        handler = Life(crash_limit=2, crash_window=60.0)
        for _ in range(4):
            self.crash(handler)
            handler.now += 61.0
        assert handler.state.phase is Phase.COLD

    def test_out_of_memory_is_told_from_a_crash(self) -> None:
        handler = Life().warm().happens(UnloadRequested(5, "drain", 1.0))
        assert handler.did(Stop)
        crashed = Life().warm().happens(LeaseRequested(1), UnloadRequested(5, "drain", 1.0))
        crashed.happens(WorkerLost(1, Cause.OUT_OF_MEMORY, HandlerCrashed("signal 9")), WorkerExited(1))
        drain = crashed.did(ReplyUnload)[0].drain
        assert drain is not None
        assert drain.cause is Cause.OUT_OF_MEMORY
        assert drain.killed == 1


class TestEviction:
    def test_only_an_idle_worker_of_that_generation_is_evicted(self) -> None:
        handler = Life().warm().happens(LeaseRequested(1), Evicted(1))
        assert handler.state.phase is Phase.READY
        handler.happens(LeaseReleased(1), Evicted(1))
        assert handler.did(Stop) == [Stop(1)]

    def test_a_pinned_handler_is_never_evicted(self) -> None:
        assert Life(pin=True).warm().happens(Evicted(1)).state.phase is Phase.READY

    def test_a_handler_that_is_pinned_while_it_idles_stays_and_idles_a_full_time_when_it_is_unpinned(self) -> None:
        handler = Life(idle_after=300.0).warm()
        assert handler.state.token(Timer.IDLE) is not None
        handler.policy = HandlerPolicy(idle_after=300.0, pin=True)
        handler.happens(PolicyChanged())
        assert handler.did(StopTimer) == [StopTimer(Timer.IDLE)]
        assert handler.happens(Evicted(1)).state.phase is Phase.READY
        handler.policy = HandlerPolicy(idle_after=300.0)
        handler.happens(PolicyChanged())
        assert [action.delay for action in handler.did(StartTimer)] == [300.0]

    def test_pinning_changes_nothing_for_a_handler_that_is_busy_or_has_no_worker(self) -> None:
        for handler in (Life(pin=True), Life(pin=True).warm().happens(LeaseRequested(1))):
            before = handler.state
            assert handler.happens(PolicyChanged()).actions == []
            assert handler.state == before

    def test_a_worker_that_has_just_become_ready_serves_before_it_can_be_evicted(self) -> None:
        handler = Life().happens(LeaseRequested(1), MemoryReserved(1), WorkerReady(1), Evicted(1))
        assert handler.state.leases == {1}
        assert handler.state.phase is Phase.READY


class TestShutdown:
    def test_new_work_is_refused_and_what_was_admitted_is_served(self) -> None:
        handler = Life(max_concurrency=1).warm().happens(LeaseRequested(1), LeaseRequested(2), ShutdownRequested(10.0))
        assert isinstance(handler.happens(LeaseRequested(3)).did(Refuse)[0].error, Draining)
        assert granted(handler.happens(LeaseReleased(1))) == [2]
        assert handler.happens(LeaseReleased(2)).did(Stop) == [Stop(1)]

    def test_the_deadline_ends_the_rest(self) -> None:
        handler = Life(max_concurrency=1).warm().happens(LeaseRequested(1), LeaseRequested(2), ShutdownRequested(10.0))
        handler.timer_runs_out(Timer.DRAIN)
        assert refused(handler) == {2: "draining"}
        assert handler.did(EndLeases)[0].dispatches == {1}
        assert handler.did(Stop) == [Stop(1)]

    def test_an_activation_is_aborted_and_nothing_starts_again(self) -> None:
        handler = Life().happens(LeaseRequested(1), MemoryReserved(1), ShutdownRequested(10.0))
        assert refused(handler) == {1: "draining"}
        assert handler.did(Abort) == [Abort(1)]
        handler.happens(WorkerExited(1), LoadRequested(4))
        assert isinstance(handler.did(ReplyLoad)[0].error, Draining)
        assert handler.state.phase is Phase.COLD
