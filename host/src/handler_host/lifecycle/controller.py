"""The one owner of one handler: takes events, decides by ``transitions.step``, performs the actions.

Every decision about a handler is made in :meth:`HandlerController.post`, in the event loop's
thread, from beginning to end without a pause: an event that comes up while
another is worked on waits in the mailbox. So a dispatch to a warm handler is
admitted without a task switch, and nothing is ever decided from a state that
somebody else has changed meanwhile. What takes time (finding room, launching,
watching and ending a worker) runs in one task for each generation, which tells
its outcome as events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from handler_host.catalog.catalog import CatalogEntry
from handler_host.config import HandlerPolicy
from handler_host.lifecycle import actions, events
from handler_host.lifecycle.lease import Lease
from handler_host.lifecycle.state import Phase, State, Timer, Unloaded
from handler_host.lifecycle.timers import BusyTracker, LazyTimer
from handler_host.lifecycle.transitions import step
from handler_host.memory.budget import Budget, MemoryEstimate
from handler_host.plugin.errors import (
    ActivationFailed,
    DeadlineExceeded,
    HandlerCrashed,
    HandlerLoading,
    HandlerUnavailable,
    HostError,
)
from handler_host.workers.events import Cause
from handler_host.workers.exit_report import ExitReport
from handler_host.workers.worker import LaunchSpec, Worker

log = logging.getLogger(__name__)

_TOLD = {Phase.ACTIVATING: "activating", Phase.DRAINING: "draining"}
"""The phases whose beginning is told at once; of the others the outcome is told."""


class ControllerServices(Protocol):
    """What an owner needs of the supervisor."""

    @property
    def budget(self) -> Budget:
        """The bytes that may be used."""

    async def launch_spec(self, entry: CatalogEntry, generation: int) -> LaunchSpec:
        """Return the launch specification of a worker; raises :class:`HostError`."""

    async def memory_estimate(self, controller: HandlerController) -> MemoryEstimate:
        """Return the memory that an activation of the handler is expected to use."""

    async def was_oom_kill(self) -> bool:
        """Return whether the kernel has just killed a worker for memory."""

    def on_worker_exit(self, controller: HandlerController, worker: Worker, cause: Cause) -> None:
        """Learn from the exit of a worker."""

    def on_state_change(self, controller: HandlerController, kind: str, exit: ExitReport | None = None) -> None:
        """Record a state change; ``kind`` is a key of ``handler_host.telemetry.events.KINDS``."""


class HandlerController:
    """Owns one handler: its state, its generation, its timers, its waiters."""

    def __init__(self, entry: CatalogEntry, policy: HandlerPolicy, services: ControllerServices) -> None:
        self.entry = entry
        self.policy = policy
        self.removed = False
        """The catalog has it no more; the owner goes when its worker has gone."""
        self.dispatches = 0
        self.activated_for = "dispatch"
        """Who has caused the last activation: ``dispatch`` or ``operator``."""
        self.activate_seconds: float | None = None
        """What the last activation took."""
        self.busy = BusyTracker()
        self.last_exit: ExitReport | None = None
        self._services = services
        self._state = State()
        self._mailbox: deque[events.Event] = deque()
        self._deciding = False
        self._worker: Worker | None = None
        self._reserving: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._leases: dict[int, Lease] = {}
        self._loads: dict[int, asyncio.Future[None]] = {}
        self._unloads: dict[int, asyncio.Future[Unloaded]] = {}
        self._requests = 0
        self._timers: dict[Timer, LazyTimer] = {}
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            actions.Reserve: self._reserve,
            actions.Launch: self._launch,
            actions.Abandon: self._abandon,
            actions.Abort: self._abort,
            actions.Grant: self._grant,
            actions.Refuse: self._refuse,
            actions.EndLeases: self._end_leases,
            actions.Stop: self._stop,
            actions.StartTimer: self._start_timer,
            actions.StopTimer: self._stop_timer,
            actions.ReplyLoad: self._answer_load,
            actions.ReplyUnload: self._answer_unload,
        }

    @property
    def name(self) -> str:
        """The handler's name."""
        return self.entry.name

    @property
    def state(self) -> State:
        """The state, to be shown. Nothing may be decided from it outside :meth:`post`."""
        return self._state

    @property
    def worker(self) -> Worker | None:
        """The worker that has a process, or is about to have one."""
        return self._worker

    @property
    def at_rest(self) -> bool:
        """Whether there is no worker, and none under way."""
        return self._state.phase in (Phase.COLD, Phase.FAILED) and self._running is None

    def update(self, entry: CatalogEntry, policy: HandlerPolicy) -> None:
        """Take what the catalog and the operators say now; a worker that runs is not touched."""
        stays = (policy.pin, policy.idle_after) == (self.policy.pin, self.policy.idle_after)
        self.entry = entry
        self.policy = policy
        if not stays:
            self.post(events.PolicyChanged())

    def post(self, event: events.Event) -> None:
        """Let ``event`` happen: decide, then act. Events are worked on one after the other."""
        self._mailbox.append(event)
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._mailbox:
                phase = self._state.phase
                self._state, actions = step(self._state, self._mailbox.popleft(), self.policy, time.monotonic())
                for action in actions:
                    self._act(action)
                if self._state.phase is not phase and self._state.phase in _TOLD:
                    self._services.on_state_change(self, _TOLD[self._state.phase])
        finally:
            self._deciding = False
        ready, busy = self._state.phase is Phase.READY, bool(self._state.leases)
        if self.busy.update(is_busy=busy, is_idle=ready and not busy):
            # Somebody may wait for just this handler to be idle (case 22).
            self._services.budget.ledger.schedule()

    def _act(self, action: actions.Action) -> None:
        try:
            self._perform[type(action)](action)
        except Exception:
            # The state says that all actions are done: those behind this one are other people's.
            log.exception("a defect of the host: %s of %s failed", type(action).__name__, self.name)

    async def admit(self, dispatch: int, patience: float | None) -> Lease:
        """Return a lease for the dispatch, activating the handler if it takes that.

        Raises the :class:`HostError` of a refusal, and ``HandlerLoading`` or
        ``DeadlineExceeded`` after ``patience`` seconds. Who is given a lease has to
        :meth:`release` it.
        """
        if self.entry.problem is not None and self._state.phase in (Phase.COLD, Phase.FAILED):
            problem = self.entry.problem
            raise HandlerUnavailable(f"{self.name} cannot run ({problem.state}): {problem.reason}")
        lease = Lease(self.name, self.policy)
        self._leases[dispatch] = lease
        self.post(events.LeaseRequested(dispatch))
        try:
            if not await lease.decided(patience):
                raise self._too_slow(patience or 0.0)
        except BaseException:
            # Refused, out of patience, or cancelled: in the very moment of the grant, too.
            self._leases.pop(dispatch, None)
            self.post(events.LeaseCancelled(dispatch))
            raise
        self.dispatches += 1
        return lease

    def _too_slow(self, patience: float) -> HostError:
        if self._state.phase is Phase.READY:
            return DeadlineExceeded(
                f"{self.name} had no place free within {patience:g} s: {len(self._state.leases)} dispatches under way, "
                f"{len(self._state.waiters)} waiting (max_concurrency)"
            )
        return HandlerLoading(
            f"{self.name} was not ready within {patience:g} s; it goes on loading",
            retry_after=self.activate_seconds or 1.0,
        )

    def release(self, dispatch: int) -> None:
        """Take the lease of a dispatch back; what it has not waited for is cancelled."""
        lease = self._leases.pop(dispatch, None)
        if lease is not None:
            lease.left()
        self.post(events.LeaseReleased(dispatch))

    async def load(self) -> None:
        """Activate the handler, or return at once if it is; raises the :class:`HostError` of a failure."""
        if self.entry.problem is not None:
            problem = self.entry.problem
            raise HandlerUnavailable(f"{self.name} cannot run ({problem.state}): {problem.reason}")
        self._requests += 1
        self._loads[self._requests] = response = asyncio.get_running_loop().create_future()
        self.post(events.LoadRequested(self._requests))
        await response

    async def unload(self, mode: events.UnloadMode, deadline: float, cause: Cause) -> Unloaded:
        """Take the worker away; returns when its process is gone. Raises ``HandlerBusy`` for ``if_idle``."""
        self._requests += 1
        response: asyncio.Future[Unloaded] = asyncio.get_running_loop().create_future()
        self._unloads[self._requests] = response
        self.post(events.UnloadRequested(self._requests, mode, deadline, cause))
        return await response

    async def close(self, deadline: float) -> None:
        """Shut down: dispatches under way get ``deadline`` seconds; returns when no process is left."""
        self.post(events.ShutdownRequested(deadline))
        while tasks := {task for task in (self._reserving, self._running) if task is not None and not task.done()}:
            await asyncio.wait(tasks)
        for timer in self._timers.values():
            timer.stop()

    def evictable_since(self) -> float | None:
        """Return since when the worker could be evicted, on the monotonic clock; None while it must not be."""
        state = self._state
        if state.phase is not Phase.READY or state.leases or state.waiters or self.policy.pin:
            return None
        return self.busy.idle_since or time.monotonic()

    def expires_in(self) -> float | None:
        """Return the seconds until the idle clock runs out, or None while it does not run."""
        timer = self._timers.get(Timer.IDLE)
        return timer.remaining() if timer is not None else None

    def _reserve(self, action: actions.Reserve) -> None:
        self.activated_for = "operator" if self._state.loads else "dispatch"
        self._reserving = asyncio.create_task(self._find_room(action.generation), name=f"room for {self.name}")

    async def _find_room(self, generation: int) -> None:
        try:
            expected = await self._services.memory_estimate(self)
            # Woken for its pending work, it takes room only if there is some: nobody waits for it.
            wanted = bool(self._state.waiters or self._state.loads)
            if expected.amount > self._services.budget.ledger.available:
                self._services.on_state_change(self, "waiting")
            await self._services.budget.reserve(self.name, generation, expected, may_wait=wanted)
        except HostError as error:
            self.post(events.WorkerStartFailed(generation, error, counts_as_failure=False))
        except Exception:
            log.exception("a defect of the host kept %s generation %d from its memory", self.name, generation)
            self.post(events.WorkerStartFailed(generation, self._defect()))
        else:
            self.post(events.MemoryReserved(generation))

    def _abandon(self, action: actions.Abandon) -> None:
        if self._reserving is not None:
            self._reserving.cancel()
        self._services.budget.ledger.release(self.name, action.generation)

    def _launch(self, action: actions.Launch) -> None:
        self._running = asyncio.create_task(
            self._run(action.generation), name=f"{self.name} generation {action.generation}"
        )

    async def _run(self, number: int) -> None:
        """Own one generation, from its plan to its end."""
        outcome: list[events.Event] = []

        def post(event: events.Event) -> None:
            # The last event is told when nothing of the generation is left, this task included.
            if isinstance(event, events.WorkerExited | events.WorkerStartFailed):
                outcome.append(event)
                return
            self.post(event)
            if isinstance(event, events.WorkerReady):
                assert self._worker is not None, "what activates was launched"
                self.activate_seconds = time.monotonic() - self._worker.launched_at
                self._services.on_state_change(self, "activated")

        try:
            spec = await self._services.launch_spec(self.entry, number)
            self._worker = worker = Worker(spec, post, self._services.was_oom_kill)
            if self._state.phase is not Phase.ACTIVATING:
                worker.abort()
            await worker.run()
        except HostError as error:
            outcome.append(events.WorkerStartFailed(number, error))
        except Exception:
            log.exception("a defect of the host ended %s generation %d", self.name, number)
            outcome += self._after_defect(number)
        finally:
            self._services.budget.ledger.release(self.name, number)
            self._running = None
        for event in outcome:
            if isinstance(event, events.WorkerLost):
                self.post(event)
                continue
            report = self._note_end(event)
            self.post(event)
            self._services.on_state_change(
                self, "unloaded" if isinstance(event, events.WorkerExited) else "failed", report
            )

    def _after_defect(self, number: int) -> list[events.Event]:
        """Return the events that end a generation whose task failed, so that nobody waits for it for ever."""
        if self._state.phase is Phase.ACTIVATING:
            return [events.WorkerStartFailed(number, self._defect())]
        error = HandlerCrashed(f"a defect of the host ended the worker of {self.name}")
        return [events.WorkerLost(number, Cause.CRASH, error), events.WorkerExited(number)]

    def _defect(self) -> ActivationFailed:
        return ActivationFailed(f"a defect of the host kept {self.name} from being activated; see the log")

    def _note_end(self, event: events.Event) -> ExitReport | None:
        worker, drain = self._worker, self._state.drain
        self._worker = None
        if worker is None or worker.exit is None:
            return None
        cause = drain.cause if drain is not None else Cause.FAILED
        if worker.out_of_memory:
            cause = Cause.OUT_OF_MEMORY
        self._services.on_worker_exit(self, worker, cause)
        reason = event.error.message if isinstance(event, events.WorkerStartFailed) else None
        self.last_exit = worker.exit_report(cause, reason)
        return self.last_exit

    def _abort(self, action: actions.Abort) -> None:
        if self._worker is not None:
            self._worker.abort()

    def _stop(self, action: actions.Stop) -> None:
        self._services.budget.ledger.mark_leaving(self.name, action.generation)
        if self._worker is not None:
            self._worker.stop()

    def _grant(self, action: actions.Grant) -> None:
        assert self._worker is not None, "only a ready generation grants"
        self._worker.served += 1
        self._leases[action.dispatch].granted(self._worker)

    def _refuse(self, action: actions.Refuse) -> None:
        lease = self._leases.pop(action.dispatch, None)
        if lease is not None:
            lease.refused(action.error)

    def _end_leases(self, action: actions.EndLeases) -> None:
        for dispatch in action.dispatches:
            lease = self._leases.pop(dispatch, None)
            if lease is not None:
                lease.ended(action.error)

    def _start_timer(self, action: actions.StartTimer) -> None:
        timer = self._timers.get(action.timer)
        if timer is None:
            timer = self._timers[action.timer] = LazyTimer(action.timer, self.post)
        timer.start(action.token, action.delay)

    def _stop_timer(self, action: actions.StopTimer) -> None:
        self._timers[action.timer].stop()

    def _answer_load(self, action: actions.ReplyLoad) -> None:
        response = self._loads.pop(action.request)
        if response.done():
            return
        if action.error is None:
            response.set_result(None)
        else:
            response.set_exception(action.error.copy())

    def _answer_unload(self, action: actions.ReplyUnload) -> None:
        response = self._unloads.pop(action.request)
        if response.done():
            return
        if action.error is not None:
            response.set_exception(action.error)
            return
        exit = self.last_exit
        if action.drain is None or (exit is not None and exit.generation != action.generation):
            exit = None  # that of an earlier one: this one never had a process
        text, given_back = (exit.text, exit.given_back or 0) if exit is not None else (None, 0)
        response.set_result(Unloaded(action.generation, action.drain, text, given_back))
