"""The controller of one handler: takes events, decides by ``transitions.step``, performs the actions.

Every decision about a handler is made in :meth:`HandlerController.post`, in the event
loop's thread, without an await: an event that arrives during another one waits in the
mailbox. So a dispatch to a warm handler is admitted without a task switch, and no
decision is based on a state that has changed meanwhile. What takes time (reserving
memory, launching, supervising and ending a worker) runs in a task for each worker
(``handler_host.lifecycle.worker_runner``), which reports its outcome as events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.config import HandlerPolicy
from handler_host.lifecycle import actions, events
from handler_host.lifecycle.lease import Lease
from handler_host.lifecycle.operator_requests import OperatorRequests, Unloaded
from handler_host.lifecycle.state import HandlerState, Phase, Timer, WorkerPhase
from handler_host.lifecycle.timers import BusyDurations, LazyTimer, latest
from handler_host.lifecycle.transitions import step
from handler_host.lifecycle.worker_runner import RunnerServices, WorkerRunner
from handler_host.plugin.errors import DeadlineExceeded, HandlerLoading, HandlerUnavailable, HostError
from handler_host.workers.events import Cause, WorkerExited, WorkerStartFailed
from handler_host.workers.exit_report import ExitReport

if TYPE_CHECKING:
    from handler_host.workers.worker import Worker

log = logging.getLogger(__name__)

_REPORTED_ON_ENTRY = {WorkerPhase.ACTIVATING: "activating", WorkerPhase.DRAINING: "draining"}
"""Phases of a worker that are reported on entry; the others are reported on completion."""
_LIVE_KEYS = ("pin", "idle_after", "shrink_after", "min_workers", "max_workers", "max_concurrency")
"""Keys of the policy that change at once what running workers do."""


class ControllerServices(RunnerServices, Protocol):
    """The services of the supervisor for the controllers."""

    def on_worker_exit(self, controller: HandlerController, worker: Worker, cause: Cause) -> None:
        """Learn from the exit of a worker."""

    def on_state_change(
        self, controller: HandlerController, runner: WorkerRunner, kind: str, exit: ExitReport | None = None
    ) -> None:
        """Record a state change of a worker; ``kind`` is a key of ``handler_host.telemetry.events.KINDS``."""


class HandlerController:
    """Owns one handler: its state, its workers, its timers, its queue."""

    def __init__(self, entry: CatalogEntry, policy: HandlerPolicy, services: ControllerServices) -> None:
        self.entry = entry
        self.policy = policy
        self.removed = False
        """Whether the catalog no longer has it: the controller is dropped when its last worker has exited."""
        self.dispatches = 0
        """Dispatches admitted so far."""
        self.activate_seconds: float | None = None
        """The duration of the latest activation."""
        self.last_exit: ExitReport | None = None
        self._services = services
        self._state = HandlerState()
        self._mailbox: deque[events.Event] = deque()
        self._deciding = False
        self._runners: dict[int, WorkerRunner] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._durations = BusyDurations()
        self._leases: dict[int, Lease] = {}
        self._measurement: asyncio.Task[None] | None = None
        self._requests = OperatorRequests()
        self._retry_timer: LazyTimer | None = None
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
            actions.MeasureLoad: self._measure_load,
            actions.ReplyLoad: self._requests.reply_load,
            actions.ReplyUnload: self._requests.reply_unload,
        }

    @property
    def name(self) -> str:
        """The handler's name."""
        return self.entry.name

    @property
    def state(self) -> HandlerState:
        """The state, for display. Nothing may be decided from it outside :meth:`post`."""
        return self._state

    @property
    def workers(self) -> list[Worker]:
        """The workers that have a process, or are about to have one, oldest first."""
        return [runner.worker for runner in self._runners.values() if runner.worker is not None]

    @property
    def ready_workers(self) -> list[Worker]:
        """The workers that take dispatches, oldest first."""
        ready = [worker.generation for worker in self._state.workers if worker.phase is WorkerPhase.READY]
        return [worker for generation in ready if (worker := self._runners[generation].worker) is not None]

    @property
    def runners(self) -> list[WorkerRunner]:
        """The runners of all workers, oldest first."""
        return list(self._runners.values())

    @property
    def worker(self) -> Worker | None:
        """The worker that stands for the handler: the oldest that takes dispatches, else the oldest."""
        workers = self.ready_workers or self.workers
        return workers[0] if workers else None

    @property
    def is_unloaded(self) -> bool:
        """Whether it has neither a worker nor a task that starts or ends one."""
        return not self._state.workers and not self._runners

    @property
    def may_wait_for_memory(self) -> bool:
        """Whether an activation may evict others and wait: a dispatch or an operator needs it, not only less load."""
        return self._state.alive == 1 and bool(self._state.waiters or self._state.loads)

    def update(self, entry: CatalogEntry, policy: HandlerPolicy) -> None:
        """Apply a new catalog entry and policy; a running worker keeps what it was launched with."""
        before, self.entry, self.policy = self.policy, entry, policy
        if any(getattr(before, key) != getattr(policy, key) for key in _LIVE_KEYS):
            self.post(events.PolicyChanged())

    def post(self, event: events.Event) -> None:
        """Handle an event: decide, then act. Events are handled one after the other."""
        if self._deciding:
            self._mailbox.append(event)
            return
        self._deciding = True
        try:
            while True:
                self._state, required = step(self._state, event, self.policy, time.monotonic())
                for action in required:
                    try:
                        self._perform[type(action)](action)
                    except Exception:
                        # Keep going: the state assumes that every action ran, and later ones serve other requests.
                        log.exception("internal error: %s of %s failed", type(action).__name__, self.name)
                for worker in self._state.workers:
                    runner = self._runners[worker.generation]
                    if worker.phase is not runner.phase:
                        self._enter_phase(runner, worker.phase)
                if not self._mailbox:
                    break
                event = self._mailbox.popleft()
        finally:
            self._deciding = False
        idle: list[int] = []
        for worker in self._state.workers:
            is_busy, is_ready = worker.leases.size > 0, worker.phase is WorkerPhase.READY
            if self._runners[worker.generation].busy.update(is_busy, is_ready and not is_busy):
                idle.append(worker.generation)
        for generation in idle:
            # An activation may wait for just this worker to be idle (case 22).
            self._services.budget_of(self.policy).mark_idle(self.name, generation)

    def _enter_phase(self, runner: WorkerRunner, phase: WorkerPhase) -> None:
        runner.phase = phase
        if phase in _REPORTED_ON_ENTRY:
            self._services.on_state_change(self, runner, _REPORTED_ON_ENTRY[phase])

    async def admit(self, dispatch: int, patience: float | None, affinity: str | None, requested_for: str) -> Lease:
        """Return a lease for the dispatch, activating the handler if necessary.

        Raises the :class:`HostError` of a refusal, and ``HandlerLoading`` or
        ``DeadlineExceeded`` after ``patience`` seconds. The caller must :meth:`release`
        the lease.
        """
        if self.entry.problem is not None and not self._state.workers:
            raise self._unavailable()
        lease = Lease(self.name, self.policy, requested_for)
        self._leases[dispatch] = lease
        self.post(events.LeaseRequested(dispatch, affinity))
        try:
            if not await lease.wait(patience):
                raise self._out_of_patience(patience or 0.0)
        except BaseException:
            # Refused, out of patience, or cancelled: possibly just when the lease was granted.
            self._leases.pop(dispatch, None)
            self.post(events.LeaseCancelled(dispatch))
            raise
        self.dispatches += 1
        return lease

    def _unavailable(self) -> HandlerUnavailable:
        problem = self.entry.problem
        assert problem is not None, "a handler without a problem is available"
        return HandlerUnavailable(f"{self.name} cannot run ({problem.state}): {problem.reason}")

    def _out_of_patience(self, patience: float) -> HostError:
        if self._state.phase is Phase.READY:
            return DeadlineExceeded(
                f"{self.name} had no free slot within {patience:g} s: {self._state.in_flight} dispatches in flight, "
                f"{len(self._state.waiters)} waiting (max_concurrency); retry later"
            )
        return HandlerLoading(
            f"{self.name} was not ready within {patience:g} s and is still loading; retry later",
            retry_after=self.activate_seconds or 1.0,
        )

    def release(self, dispatch: int) -> None:
        """Release the lease of a dispatch; its calls that have not ended are cancelled."""
        lease = self._leases.pop(dispatch, None)
        if lease is not None:
            lease.cancel()
        self.post(events.LeaseReleased(dispatch))

    async def load(self) -> None:
        """Activate the handler, or return at once if it is active; raises the :class:`HostError` of a failure."""
        if self.entry.problem is not None:
            raise self._unavailable()
        number, reply = self._requests.add_load()
        self.post(events.LoadRequested(number))
        await reply

    def request_unload(self, mode: events.UnloadMode, deadline: float | None, cause: Cause) -> asyncio.Future[Unloaded]:
        """Unload all workers; the future is done when their processes have exited.

        ``deadline`` is in seconds; None means the handler's ``drain_timeout``. The future raises ``HandlerBusy``
        for ``if_idle``.
        """
        number, reply = self._requests.add_unload()
        seconds = self.policy.drain_timeout if deadline is None else deadline
        self.post(events.UnloadRequested(number, mode, seconds, cause))
        return reply

    async def close(self, deadline: float) -> None:
        """Shut down: dispatches in flight get ``deadline`` seconds; returns when no process is left."""
        self.post(events.ShutdownRequested(deadline))
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._measurement is not None:
            self._measurement.cancel()
        if self._retry_timer is not None:
            self._retry_timer.close()

    def evictable_since(self, generation: int) -> float | None:
        """Return since when a worker could be evicted, on the monotonic clock; None while it must not be."""
        worker = self._state.worker(generation)
        if worker is None or worker.phase is not WorkerPhase.READY:
            return None
        if worker.leases or self._state.waiters or self.policy.pin:
            return None
        return self._runners[generation].busy.idle_since or time.monotonic()

    def is_surplus(self, generation: int) -> bool:
        """Return whether the handler stays active without this worker; of its workers, the oldest is not surplus."""
        return any(worker.generation != generation for worker in self.ready_workers[:1])

    def busy_for_another(self, generation: int, default: float) -> float:
        """Return the seconds until a worker is probably idle: 0 if it is, ``default`` if nothing is known."""
        runner = self._runners.get(generation)
        return runner.busy.busy_for_another(default) if runner is not None else 0.0

    @property
    def idle_since(self) -> float | None:
        """When the last of the workers became idle, on the monotonic clock; None while one is busy or none is ready."""
        return latest(self._runners[worker.generation].busy.idle_since for worker in self._state.workers)

    def expires_in(self) -> float | None:
        """Return the seconds until the idle timers of all workers have fired, or None while one does not run."""
        return latest(self._runners[worker.generation].expires_in() for worker in self._state.workers)

    def on_waiting(self, runner: WorkerRunner) -> None:
        """Report that an activation waits for memory (for the runner)."""
        self._services.on_state_change(self, runner, "waiting")

    def on_ready(self, runner: WorkerRunner) -> None:
        """Report that a worker is ready (for the runner)."""
        assert runner.worker is not None, "a ready worker was launched"
        self.activate_seconds = time.monotonic() - runner.worker.launched_at
        self._services.on_state_change(self, runner, "activated")

    def on_end(self, runner: WorkerRunner, event: WorkerExited | WorkerStartFailed) -> None:
        """Handle the last event of a worker (for the runner)."""
        report = self._record_exit(runner, event)
        self.post(event)
        del self._runners[runner.generation]
        runner.close()
        if runner.was_launched:
            kind = "unloaded" if isinstance(event, WorkerExited) else "failed"
            self._services.on_state_change(self, runner, kind, report)

    def _record_exit(self, runner: WorkerRunner, event: WorkerExited | WorkerStartFailed) -> ExitReport | None:
        worker, state = runner.worker, self._state.worker(runner.generation)
        if worker is None or worker.exit is None:
            return None
        cause = state.drain.cause if state is not None and state.drain is not None else Cause.FAILED
        if worker.out_of_memory:
            cause = Cause.OUT_OF_MEMORY
        self._services.on_worker_exit(self, worker, cause)
        reason = event.error.message if isinstance(event, WorkerStartFailed) else None
        self.last_exit = report = worker.exit_report(cause, reason)
        if state is not None and state.drain is not None:
            self._requests.add_exit(state.drain.unloads, report)
        return report

    def _watch(self, runner: WorkerRunner) -> None:
        """Keep the runner's task until it is done."""
        if runner.task is not None:
            self._tasks.add(runner.task)
            runner.task.add_done_callback(self._tasks.discard)

    def _reserve(self, action: actions.Reserve) -> None:
        runner = WorkerRunner(action.generation, self._activation_cause(), self, self._services, self._durations)
        self._runners[action.generation] = runner
        runner.reserve()
        self._watch(runner)

    def _activation_cause(self) -> str:
        if self._state.alive > 1:
            return "growth"
        if self._state.loads:
            return "operator"
        waiting = [self._leases[dispatch] for dispatch in self._state.waiters if dispatch in self._leases]
        return waiting[0].requested_for if waiting else "dispatch"

    def _abandon(self, action: actions.Abandon) -> None:
        self._runners.pop(action.generation).abandon()

    def _launch(self, action: actions.Launch) -> None:
        runner = self._runners[action.generation]
        runner.launch()
        self._watch(runner)

    def _abort(self, action: actions.Abort) -> None:
        self._runners[action.generation].abort()

    def _stop(self, action: actions.Stop) -> None:
        self._runners[action.generation].stop()

    def _grant(self, action: actions.Grant) -> None:
        worker = self._runners[action.generation].worker
        assert worker is not None, "only a ready worker gets leases"
        worker.served += 1
        self._leases[action.dispatch].grant(worker)

    def _refuse(self, action: actions.Refuse) -> None:
        lease = self._leases.pop(action.dispatch, None)
        if lease is not None:
            lease.refuse(action.error)

    def _end_leases(self, action: actions.EndLeases) -> None:
        for dispatch in action.dispatches:
            lease = self._leases.pop(dispatch, None)
            if lease is not None:
                lease.end(action.error)

    def _start_timer(self, action: actions.StartTimer) -> None:
        if action.generation is not None:
            self._runners[action.generation].start_timer(action)
            return
        if self._retry_timer is None:
            self._retry_timer = LazyTimer(Timer.RETRY, None, self.post)
        self._retry_timer.start(action.token, action.delay)

    def _stop_timer(self, action: actions.StopTimer) -> None:
        if action.generation is not None:
            self._runners[action.generation].stop_timer(action)
        elif self._retry_timer is not None:
            self._retry_timer.stop()

    def _measure_load(self, action: actions.MeasureLoad) -> None:
        self._measurement = asyncio.create_task(self._measure(action), name=f"load of {self.name}")

    async def _measure(self, action: actions.MeasureLoad) -> None:
        from handler_host.lifecycle.processor_load import should_grow  # only for handlers with several workers

        grows = False
        try:
            if await should_grow(self.ready_workers, action.seconds):
                estimate = await self._services.memory_estimate(self.entry, self.policy)
                grows = self._services.budget_of(self.policy).has_room(estimate)
        except Exception:
            log.exception("internal error: the load of %s could not be measured", self.name)
        finally:
            self._measurement = None
        self.post(events.LoadMeasured(action.token, grows))
