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
from handler_host.lifecycle import state as life
from handler_host.lifecycle.lease import Lease
from handler_host.lifecycle.state import Phase, State, Timer
from handler_host.lifecycle.timers import BusyTracker, LazyTimer
from handler_host.lifecycle.transitions import step
from handler_host.memory.budget import Budget, MemoryEstimate
from handler_host.memory.ledger import Candidate
from handler_host.plugin.errors import (
    ActivationFailed,
    DeadlineExceeded,
    HandlerCrashed,
    HandlerLoading,
    HandlerUnavailable,
    HostError,
)
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

    async def plan(self, entry: CatalogEntry, generation: int) -> LaunchSpec:
        """Return what to launch a generation with; raises :class:`HostError`."""

    async def memory_estimate(self, controller: HandlerController) -> MemoryEstimate:
        """Return what an activation of the handler is expected to take."""

    async def killed_for_memory(self) -> bool:
        """Return whether the kernel has just killed a worker for memory."""

    def ended(self, generation: Worker, cause: life.Cause) -> None:
        """Learn from the end of a worker."""

    def changed(self, controller: HandlerController, what: str, exit: ExitReport | None = None) -> None:
        """Take note of a step, one of ``handler_host.telemetry.events.KINDS``; ``exit`` is how the worker ended."""


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
        self.spells = BusyTracker()
        self.last_exit: ExitReport | None = None
        self._services = services
        self._state = State()
        self._mailbox: deque[life.Event] = deque()
        self._deciding = False
        self._generation: Worker | None = None
        self._reserving: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._leases: dict[int, Lease] = {}
        self._loads: dict[int, asyncio.Future[None]] = {}
        self._unloads: dict[int, asyncio.Future[life.Unloaded]] = {}
        self._requests = 0
        self._timers: dict[Timer, LazyTimer] = {}
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            life.Reserve: self._reserve,
            life.Launch: self._launch,
            life.Abandon: self._abandon,
            life.Abort: self._abort,
            life.Grant: self._grant,
            life.Refuse: self._refuse,
            life.EndLeases: self._end_leases,
            life.Stop: self._stop,
            life.StartTimer: self._start_timer,
            life.StopTimer: self._stop_timer,
            life.ReplyLoad: self._answer_load,
            life.ReplyUnload: self._answer_unload,
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
    def generation(self) -> Worker | None:
        """The generation that has a process, or is about to have one."""
        return self._generation

    @property
    def inline(self) -> bool:
        """Whether the handler runs in the host's own process, or would: a worker keeps to what it was launched with."""
        return (self._generation.policy if self._generation is not None else self.policy).isolation == "inline"

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
            self.post(life.PolicyChanged())

    def post(self, event: life.Event) -> None:
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
                    self._services.changed(self, _TOLD[self._state.phase])
        finally:
            self._deciding = False
        ready, busy = self._state.phase is Phase.READY, bool(self._state.leases)
        if self.spells.note(busy=busy, idle=ready and not busy):
            # Somebody may wait for just this handler to be idle (case 22).
            self._services.budget.ledger.look()

    def _act(self, action: life.Action) -> None:
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
        self.post(life.LeaseRequested(dispatch))
        try:
            if not await lease.decided(patience):
                raise self._too_slow(patience or 0.0)
        except BaseException:
            # Refused, out of patience, or cancelled: in the very moment of the grant, too.
            self._leases.pop(dispatch, None)
            self.post(life.LeaseCancelled(dispatch))
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
        self.post(life.LeaseReleased(dispatch))

    async def load(self) -> None:
        """Activate the handler, or return at once if it is; raises the :class:`HostError` of a failure."""
        if self.entry.problem is not None:
            problem = self.entry.problem
            raise HandlerUnavailable(f"{self.name} cannot run ({problem.state}): {problem.reason}")
        self._requests += 1
        self._loads[self._requests] = response = asyncio.get_running_loop().create_future()
        self.post(life.LoadRequested(self._requests))
        await response

    async def unload(self, mode: life.UnloadMode, deadline: float, cause: life.Cause) -> life.Unloaded:
        """Take the worker away; returns when its process is gone. Raises ``HandlerBusy`` for ``if_idle``."""
        self._requests += 1
        response: asyncio.Future[life.Unloaded] = asyncio.get_running_loop().create_future()
        self._unloads[self._requests] = response
        self.post(life.UnloadRequested(self._requests, mode, deadline, cause))
        return await response

    async def close(self, deadline: float) -> None:
        """Shut down: dispatches under way get ``deadline`` seconds; returns when no process is left."""
        self.post(life.ShutdownRequested(deadline))
        while tasks := {task for task in (self._reserving, self._running) if task is not None and not task.done()}:
            await asyncio.wait(tasks)
        for timer in self._timers.values():
            timer.stop()

    def candidate(self) -> Candidate | None:
        """Return what an eviction would give, or None while the handler may not be evicted."""
        state, generation = self._state, self._generation
        if state.phase is not Phase.READY or state.leases or state.waiters or self.policy.pin or generation is None:
            return None
        if self.inline:
            # It would give nothing back.
            return None
        return Candidate(self.name, generation.number, self.spells.idle_since or time.monotonic())

    def expires_in(self) -> float | None:
        """Return the seconds until the idle clock runs out, or None while it does not run."""
        timer = self._timers.get(Timer.IDLE)
        return timer.remaining() if timer is not None else None

    def _reserve(self, action: life.Reserve) -> None:
        self.activated_for = "operator" if self._state.loads else "dispatch"
        self._reserving = asyncio.create_task(self._find_room(action.generation), name=f"room for {self.name}")

    async def _find_room(self, generation: int) -> None:
        try:
            expected = await self._services.memory_estimate(self)
            # Woken for its pending work, it takes room only if there is some: nobody waits for it.
            wanted = bool(self._state.waiters or self._state.loads)
            if expected.amount > self._services.budget.ledger.room:
                self._services.changed(self, "waiting")
            await self._services.budget.reserve(self.name, generation, expected, patient=wanted)
        except HostError as error:
            self.post(life.WorkerStartFailed(generation, error, counts_as_failure=False))
        except Exception:
            log.exception("a defect of the host kept %s generation %d from its memory", self.name, generation)
            self.post(life.WorkerStartFailed(generation, self._defect()))
        else:
            self.post(life.MemoryReserved(generation))

    def _abandon(self, action: life.Abandon) -> None:
        if self._reserving is not None:
            self._reserving.cancel()
        self._services.budget.ledger.release(self.name, action.generation)

    def _launch(self, action: life.Launch) -> None:
        self._running = asyncio.create_task(
            self._run(action.generation), name=f"{self.name} generation {action.generation}"
        )

    async def _run(self, number: int) -> None:
        """Own one generation, from its plan to its end."""
        outcome: list[life.Event] = []

        def post(event: life.Event) -> None:
            # The last event is told when nothing of the generation is left, this task included.
            if isinstance(event, life.WorkerExited | life.WorkerStartFailed):
                outcome.append(event)
                return
            self.post(event)
            if isinstance(event, life.WorkerReady):
                assert self._generation is not None, "what activates was launched"
                self.activate_seconds = time.monotonic() - self._generation.launched_at
                self._services.changed(self, "activated")

        try:
            plan = await self._services.plan(self.entry, number)
            self._generation = generation = Worker(plan, post, self._services.killed_for_memory)
            if self._state.phase is not Phase.ACTIVATING:
                generation.abort()
            await generation.run()
        except HostError as error:
            outcome.append(life.WorkerStartFailed(number, error))
        except Exception:
            log.exception("a defect of the host ended %s generation %d", self.name, number)
            outcome += self._after_defect(number)
        finally:
            self._services.budget.ledger.release(self.name, number)
            self._running = None
        for event in outcome:
            if isinstance(event, life.WorkerLost):
                self.post(event)
                continue
            report = self._note_end(event)
            self.post(event)
            self._services.changed(self, "unloaded" if isinstance(event, life.WorkerExited) else "failed", report)

    def _after_defect(self, number: int) -> list[life.Event]:
        """Return the events that end a generation whose task failed, so that nobody waits for it for ever."""
        if self._state.phase is Phase.ACTIVATING:
            return [life.WorkerStartFailed(number, self._defect())]
        error = HandlerCrashed(f"a defect of the host ended the worker of {self.name}")
        return [life.WorkerLost(number, life.Cause.CRASH, error), life.WorkerExited(number)]

    def _defect(self) -> ActivationFailed:
        return ActivationFailed(f"a defect of the host kept {self.name} from being activated; see the log")

    def _note_end(self, event: life.Event) -> ExitReport | None:
        generation, drain = self._generation, self._state.drain
        self._generation = None
        if generation is None or generation.exit is None:
            return None
        cause = drain.cause if drain is not None else life.Cause.FAILED
        if generation.out_of_memory:
            cause = life.Cause.OUT_OF_MEMORY
        self._services.ended(generation, cause)
        reason = event.error.message if isinstance(event, life.WorkerStartFailed) else None
        self.last_exit = generation.report(cause, reason)
        return self.last_exit

    def _abort(self, action: life.Abort) -> None:
        if self._generation is not None:
            self._generation.abort()

    def _stop(self, action: life.Stop) -> None:
        self._services.budget.ledger.leaving(self.name, action.generation)
        if self._generation is not None:
            self._generation.stop()

    def _grant(self, action: life.Grant) -> None:
        assert self._generation is not None, "only a ready generation grants"
        self._generation.served += 1
        self._leases[action.dispatch].granted(self._generation)

    def _refuse(self, action: life.Refuse) -> None:
        lease = self._leases.pop(action.dispatch, None)
        if lease is not None:
            lease.refused(action.error)

    def _end_leases(self, action: life.EndLeases) -> None:
        for dispatch in action.dispatches:
            lease = self._leases.pop(dispatch, None)
            if lease is not None:
                lease.ended(action.error)

    def _start_timer(self, action: life.StartTimer) -> None:
        timer = self._timers.get(action.timer)
        if timer is None:
            timer = self._timers[action.timer] = LazyTimer(action.timer, self.post)
        timer.start(action.token, action.delay)

    def _stop_timer(self, action: life.StopTimer) -> None:
        self._timers[action.timer].stop()

    def _answer_load(self, action: life.ReplyLoad) -> None:
        response = self._loads.pop(action.request)
        if response.done():
            return
        if action.error is None:
            response.set_result(None)
        else:
            response.set_exception(action.error.copy())

    def _answer_unload(self, action: life.ReplyUnload) -> None:
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
        response.set_result(life.Unloaded(action.generation, action.drain, text, given_back))
