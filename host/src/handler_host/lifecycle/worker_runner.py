"""Runs one worker of a handler: reserves its memory, launches it, and reports the outcome as events.

A runner decides nothing. It performs the actions of the lifecycle that name its
generation; whatever takes time is in one task at a time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.config import HandlerPolicy
from handler_host.lifecycle.actions import StartTimer, StopTimer
from handler_host.lifecycle.events import Event, MemoryReserved
from handler_host.lifecycle.state import Timer, WorkerPhase
from handler_host.lifecycle.timers import BusyDurations, BusyTracker, LazyTimer
from handler_host.memory.budget import MemoryEstimate, WorkerBudget
from handler_host.plugin.errors import ActivationFailed, HandlerCrashed, HostError
from handler_host.workers.events import Cause, WorkerEvent, WorkerExited, WorkerLost, WorkerReady, WorkerStartFailed

if TYPE_CHECKING:
    from handler_host.workers.worker import LaunchSpec, Worker

log = logging.getLogger(__name__)


class RunnerServices(Protocol):
    """The services of the supervisor for the workers of all handlers."""

    def budget_of(self, policy: HandlerPolicy) -> WorkerBudget:
        """Return the accounts of the machines that run the workers of a handler."""

    async def launch_spec(self, entry: CatalogEntry, generation: int) -> LaunchSpec:
        """Return the launch specification of a worker; raises :class:`HostError`."""

    async def memory_estimate(self, entry: CatalogEntry, policy: HandlerPolicy) -> MemoryEstimate:
        """Return the memory that an activation of the handler is expected to use."""

    async def was_oom_kill(self) -> bool:
        """Return whether the kernel has just killed a worker for memory."""


class WorkerOwner(Protocol):
    """The controller of the handler, as its runners see it."""

    entry: CatalogEntry
    policy: HandlerPolicy

    @property
    def may_wait_for_memory(self) -> bool:
        """Whether an activation may evict other workers and wait."""

    def post(self, event: Event) -> None:
        """Handle an event."""

    def on_waiting(self, runner: WorkerRunner) -> None:
        """Report that the activation waits for memory."""

    def on_ready(self, runner: WorkerRunner) -> None:
        """Report that the worker is ready."""

    def on_end(self, runner: WorkerRunner, event: WorkerExited | WorkerStartFailed) -> None:
        """Handle the last event of the worker: nothing of it is left."""


class WorkerRunner:
    """One worker from its reservation to its last event."""

    def __init__(
        self,
        generation: int,
        started_for: str,
        owner: WorkerOwner,
        services: RunnerServices,
        durations: BusyDurations,
    ) -> None:
        self.generation = generation
        self.started_for = started_for
        """The cause of the activation: ``dispatch``, ``operator``, ``growth`` or ``deploy check``."""
        self.worker: Worker | None = None
        """The worker, from its launch on."""
        self.was_launched = False
        self.phase = WorkerPhase.WAITING
        """The phase that the controller has seen last."""
        self.busy = BusyTracker(durations)
        self.task: asyncio.Task[None] | None = None
        """The task that reserves memory or runs the worker."""
        self._name = f"{owner.entry.name} generation {generation}"
        self._handler = owner.entry.name
        self._owner = owner
        self._services = services
        self._budget = services.budget_of(owner.policy)
        self._aborted = False
        self._timers: dict[Timer, LazyTimer] = {}

    def reserve(self) -> None:
        """Reserve memory; ``MemoryReserved`` or ``WorkerStartFailed`` follows."""
        self.task = asyncio.create_task(self._reserve(), name=f"memory for {self._name}")

    def abandon(self) -> None:
        """Cancel the reservation; no event follows."""
        if self.task is not None:
            self.task.cancel()
        self._budget.release(self._handler, self.generation)

    def launch(self) -> None:
        """Launch the worker; ``WorkerReady`` or ``WorkerStartFailed`` follows, and in the end ``WorkerExited``."""
        self.was_launched = True
        self.task = asyncio.create_task(self._run(), name=self._name)

    def abort(self) -> None:
        """Kill the worker while it activates; ``WorkerExited`` follows."""
        self._aborted = True
        if self.worker is not None:
            self.worker.abort()

    def stop(self) -> None:
        """Stop the worker; ``WorkerExited`` follows."""
        self._budget.mark_leaving(self._handler, self.generation)
        if self.worker is not None:
            self.worker.stop()

    def start_timer(self, action: StartTimer) -> None:
        """Start a timer of the worker, or restart it."""
        timer = self._timers.get(action.timer)
        if timer is None:
            timer = self._timers[action.timer] = LazyTimer(action.timer, self.generation, self._owner.post)
        timer.start(action.token, action.delay)

    def stop_timer(self, action: StopTimer) -> None:
        """Stop a timer of the worker."""
        self._timers[action.timer].stop()

    def expires_in(self) -> float | None:
        """Return the seconds until the idle timer fires, or None while it does not run."""
        timer = self._timers.get(Timer.IDLE)
        return timer.remaining() if timer is not None else None

    def close(self) -> None:
        """Leave no timer behind."""
        for timer in self._timers.values():
            timer.close()

    async def _reserve(self) -> None:
        owner, budget = self._owner, self._budget
        event: Event
        try:
            estimate = await self._services.memory_estimate(owner.entry, owner.policy)
            # For pending work, or beside other workers, it takes only available memory: no client waits for it alone.
            may_wait = owner.may_wait_for_memory
            if self.started_for != "growth" and not budget.has_available(estimate):
                owner.on_waiting(self)
            await budget.reserve(self._handler, self.generation, estimate, may_wait=may_wait)
        except HostError as error:
            event = WorkerStartFailed(self.generation, error, counts_as_failure=False)
        except Exception:
            log.exception("internal error: no memory could be reserved for %s", self._name)
            event = WorkerStartFailed(self.generation, self._internal_error())
        else:
            owner.post(MemoryReserved(self.generation))
            return
        owner.on_end(self, event)

    async def _run(self) -> None:
        final_events: list[WorkerEvent] = []

        def post(event: WorkerEvent) -> None:
            if isinstance(event, WorkerExited | WorkerStartFailed):
                # Posted only when nothing of the worker is left, its reservation included.
                final_events.append(event)
                return
            self._owner.post(event)
            if isinstance(event, WorkerReady):
                self._owner.on_ready(self)

        try:
            spec = await self._services.launch_spec(self._owner.entry, self.generation)
            from handler_host.workers.worker import Worker  # an idle host carries neither workers nor channels

            self.worker = worker = Worker(spec, post, self._services.was_oom_kill)
            if self._aborted:
                worker.abort()
            await worker.run()
        except HostError as error:
            final_events.append(WorkerStartFailed(self.generation, error))
        except Exception:
            log.exception("internal error: %s could not be run", self._name)
            final_events += self._after_internal_error()
        finally:
            self._budget.release(self._handler, self.generation)
        for event in final_events:
            if isinstance(event, WorkerExited | WorkerStartFailed):
                self._owner.on_end(self, event)
            else:
                self._owner.post(event)
        # The worker keeps `post`, and that keeps this runner: without the cycle all of it is freed at once.
        self.worker = None

    def _after_internal_error(self) -> list[WorkerEvent]:
        """Return the events that end the worker after its task has failed: no dispatch may wait for ever."""
        if not self._aborted and (self.worker is None or not self.worker.is_ready):
            return [WorkerStartFailed(self.generation, self._internal_error())]
        error = HandlerCrashed(f"an internal error of the host ended the worker of {self._handler}; see the log")
        return [WorkerLost(self.generation, Cause.CRASH, error), WorkerExited(self.generation)]

    def _internal_error(self) -> ActivationFailed:
        return ActivationFailed(f"an internal error of the host kept {self._handler} from being activated; see the log")
