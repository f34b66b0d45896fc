"""All handlers together: catalog, owners, launchers, budget, and what is told of them.

The supervisor wires; it decides nothing about a single handler. That is its
owner's (``handler_host.lifecycle.controller``), and by it the lifecycle's (``handler_host.lifecycle.transitions``).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping

import msgspec

from handler_host.catalog import catalog as catalogs
from handler_host.catalog.catalog import Catalog, CatalogEntry
from handler_host.config import Config, HandlerPolicy
from handler_host.lifecycle.admission import LeaseContext
from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.events import ShutdownRequested, UnloadMode
from handler_host.lifecycle.memory_report import handler_memory, memory_report
from handler_host.lifecycle.operation_registry import OperationRegistry
from handler_host.lifecycle.pending_work import PendingWorkScheduler
from handler_host.lifecycle.reports import (
    HandlerStatus,
    LoadReceipt,
    MemoryReport,
    RescanReport,
    UnloadReceipt,
    VerifyReport,
)
from handler_host.lifecycle.state import Phase
from handler_host.lifecycle.status import (
    handler_status,
    load_receipt,
    shown_state,
    state_change_fields,
    unload_receipt,
)
from handler_host.lifecycle.worker_views import ControlledWorker, SupervisedProcesses, record_exit
from handler_host.memory.budget import Budget, MemoryEstimate
from handler_host.memory.monitor import MemoryMonitor
from handler_host.memory.sampler import Reading
from handler_host.plugin.errors import ConfigError, Draining, UnknownHandler, UnknownOperation
from handler_host.telemetry.hub import Observer, TelemetryHub
from handler_host.workers.events import Cause
from handler_host.workers.exit_report import ExitReport
from handler_host.workers.launch_spec import LaunchSpecBuilder, check_all_settings, policy_of, unknown_handlers
from handler_host.workers.preload_check import missing_modules
from handler_host.workers.worker import LaunchSpec, MakeCallRunner, Worker

log = logging.getLogger(__name__)


class Supervisor:
    """Offers the handlers of a catalog: leases to dispatches, loads and unloads to operators.

    ``environ`` is where secrets come from; the default is the host's own environment. ``check_config`` finds
    further flaws once the catalog is read: errors at the start, warnings at a rescan.
    """

    def __init__(
        self,
        config: Config,
        *,
        environ: Mapping[str, str] | None = None,
        observer: Observer | None = None,
        check_config: Callable[[Config, Collection[str]], Iterable[str]] = lambda config, handlers: (),
    ) -> None:
        self.config = config
        self.draining = False
        self.verified: VerifyReport | None = None
        """The check of this deploy, which ``handler_host.lifecycle.verification`` runs; None: none was asked for."""
        self._closing: asyncio.Task[None] | None = None
        self._environ = dict(os.environ if environ is None else environ)
        self._check_config = check_config
        self.observation = TelemetryHub(observer)
        self._catalog = Catalog.empty()
        self._controllers: dict[str, HandlerController] = {}
        self._dispatches = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._endless: list[asyncio.Task[None]] = []
        self._operations = OperationRegistry()
        self._pins: dict[str, bool] = {}
        self._launch_specs = LaunchSpecBuilder(config, self._environ)
        processes = SupervisedProcesses(self._controllers, lambda: self._launch_specs.fork_server_pids)
        self._memory_monitor = MemoryMonitor(config, processes, self.observation.history.add)
        self._rescanning = asyncio.Lock()
        self.waking = PendingWorkScheduler(config.data_dir, self._controllers, lambda: self.draining)

    async def start(self, make_call_runner: MakeCallRunner | None = None) -> None:
        """Read the catalog and start to measure. No worker is launched.

        Without ``make_call_runner`` handlers cannot dispatch to other handlers. Raises
        :class:`handler_host.plugin.errors.ConfigError` for a flaw that ``check_config`` finds.
        """
        self._launch_specs.make_call_runner = make_call_runner
        await self._memory_monitor.start()
        await self._note("startup")
        await self._rescan()
        flaws = list(self._check_config(self.config, self._catalog.entries))
        if flaws:
            await self.close()
            raise ConfigError("\n".join(flaws))
        self._endless = [
            self._spawn(self._memory_monitor.sample(), "memory sampler"),
            self._spawn(self.waking.run(), "pending work"),
        ]

    async def ready(self) -> None:
        """Log that the host answers now, with what it takes."""
        await self._note("ready", handlers=len(self._controllers))

    async def close(self) -> None:
        """Shut down within ``server.drain_timeout``; return when no process is left, also to a second caller."""
        self.draining = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close of the supervisor")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._note("stopping")
        seconds = self.config.server.drain_timeout
        await asyncio.gather(*(controller.close(seconds) for controller in self._controllers.values()))
        for endless in self._endless:
            endless.cancel()
        while self._tasks:  # what is left are the last words on workers, for log and events
            await asyncio.wait(self._tasks)
        await self._launch_specs.close()
        await self._memory_monitor.close()
        self.observation.events.close()

    def force_shutdown(self) -> None:
        """End at once what a shutdown still waits for."""
        for controller in self._controllers.values():
            controller.post(ShutdownRequested(0.0))

    def begin_drain(self) -> None:
        """Refuse new work from now on; what was admitted goes on."""
        if not self.draining:
            self.draining = True
            self._spawn(self._note("drain", in_flight=self.in_flight), "note of drain")

    @property
    def budget(self) -> Budget:
        """The bytes that host, fork server and workers may use together."""
        return self._memory_monitor.budget

    @property
    def in_flight(self) -> int:
        """Dispatches that have a lease or wait for one."""
        return sum(
            controller.state.in_flight + len(controller.state.waiters) for controller in self._controllers.values()
        )

    def lease(
        self, name: str, operation: str | None = None, patience: float | None = None, *, admitted: bool = False
    ) -> LeaseContext:
        """Return a context manager that gives a lease on the handler's worker, activating it if need be.

        ``patience`` is how many seconds it may be waited for. ``admitted``: it is part of
        a dispatch that is under way, and which a drain lets end.

        Entering it raises the :class:`handler_host.plugin.errors.HostError` of a refusal, before
        anything was sent to the handler.
        """
        if self.draining and not admitted:
            raise Draining("the host is shutting down; ask another instance")
        controller = self._controller(name)
        known = self._operations.names(controller.entry)
        if operation is not None and known is not None and operation not in known:
            raise UnknownOperation(
                f"{name} has no operation {operation!r}; it has: {', '.join(sorted(known))}", param="operation"
            )
        return LeaseContext(controller, next(self._dispatches), patience, operation if known is not None else None)

    def statuses(self) -> list[HandlerStatus]:
        """Return what there is to tell of every handler, by name."""
        return [self._status(self._controllers[name]) for name in sorted(self._controllers)]

    def require_handler(self, name: str) -> None:
        """Raise ``UnknownHandler`` unless there is a handler of this name."""
        self._controller(name)

    def status(self, name: str) -> HandlerStatus:
        """Return what there is to tell of one handler; raises ``UnknownHandler``."""
        return self._status(self._controller(name))

    async def load(self, name: str) -> LoadReceipt:
        """Activate a handler; returns when it is ready."""
        self._controller(name)
        before = await self._memory_monitor.measure()
        # Only now: a rescan may have removed it meanwhile, and nobody would own what it activates.
        controller = self._controller(name)
        already = controller.state.phase is Phase.READY
        await controller.load()
        after = before if already else await self._memory_monitor.measure()
        return load_receipt(controller, already, before.total, after.total)

    async def unload(self, name: str, mode: UnloadMode = "drain", deadline: float | None = None) -> UnloadReceipt:
        """Take a handler's worker away; returns when its process is gone and its memory is back."""
        return await self._unload(self._controller(name), mode, deadline, Cause.OPERATOR)

    async def reload(self, name: str, mode: UnloadMode = "drain", deadline: float | None = None) -> UnloadReceipt:
        """Unload a handler so that its next dispatch runs what is installed by then."""
        self._controller(name)
        await self.rescan()
        return await self._unload(self._controller(name), mode, deadline, Cause.RELOAD)

    async def pin(self, name: str, *, pinned: bool) -> HandlerStatus:
        """Keep a handler's worker from idleness and eviction, or let it go again, until the host's next start."""
        controller = self._controller(name)
        changed = controller.policy.pin != pinned
        self._pins[name] = pinned
        controller.update(controller.entry, self._policy(controller.entry))
        if changed:
            await self._note("pinned", handler=name, pin=pinned)
        return self._status(controller)

    async def refresh(self) -> None:
        """Measure, unless that was done within ``memory.sample_interval``: however many look, one measures."""
        if self._closing is None:
            await self._memory_monitor.refresh()

    async def rescan(self) -> RescanReport:
        """Read the catalog anew. Workers go on until they are unloaded; new ones run what is installed now."""
        report = await self._rescan()
        await self._note("rescan", added=report.added, removed=report.removed, changed=report.changed)
        return report

    async def _rescan(self) -> RescanReport:
        async with self._rescanning:
            found = await asyncio.to_thread(self._scan)
            changes = catalogs.diff(self._catalog, found)
            self._catalog = found
            if changes.added or changes.removed or changes.changed:
                # What the fork server has preloaded may be of yesterday.
                self._launch_specs.retire_fork_server()
            for name, controller in list(self._controllers.items()):
                controller.removed = name not in found.entries
                if controller.removed and controller.is_unloaded:
                    del self._controllers[name]
            for name, entry in found.entries.items():
                if name in changes.changed:
                    self._operations.forget(name)
                if name in self._controllers:
                    self._controllers[name].update(entry, self._policy(entry))
                else:
                    self._controllers[name] = HandlerController(entry, self._policy(entry), self)
        problems = {name: entry.problem.reason for name, entry in found.entries.items() if entry.problem is not None}
        for name, reason in problems.items():
            log.warning("cannot run", extra={"fields": {"handler": name, "reason": reason}})
        warnings = [
            *found.warnings,
            *unknown_handlers(self.config, found),
            *(f"{place}: {reason}" for place, reason in missing_modules(self.config)),
            *self._check_config(self.config, found.entries),
        ]
        for warning in warnings:
            log.warning(warning)
        return RescanReport(
            added=sorted(changes.added),
            removed=sorted(changes.removed),
            changed=sorted(changes.changed),
            problems=problems,
            warnings=warnings,
        )

    async def reconfigure(self, config: Config) -> None:
        """Go on with another configuration; what has a worker keeps what it was launched with.

        Raises :class:`handler_host.plugin.errors.ConfigError`, and goes on with the old one, for settings that do
        not fit a handler's manifest.
        """
        check_all_settings(config, self._catalog)
        self._launch_specs.reconfigure(config)
        self.config = config
        await self._memory_monitor.reconfigure(config)
        await self.rescan()

    async def try_fork(self) -> int:
        """Fork a worker without a handler, and end it; return its pid. Raises ``HostError``."""
        return await self._launch_specs.try_fork()

    def stop_idle_fork_server(self) -> None:
        """Stop the fork server if it has no worker."""
        self._launch_specs.stop_idle_fork_server()

    async def memory(self) -> MemoryReport:
        """Measure the host and all its processes now."""
        return self._memory_report(await self._memory_monitor.measure())

    def last_memory(self) -> MemoryReport:
        """Return what the last measurement has brought; the host has measured when it has started."""
        assert self._memory_monitor.latest is not None, "nothing is told before the start"
        return self._memory_report(self._memory_monitor.latest)

    def _memory_report(self, reading: Reading) -> MemoryReport:
        handlers = {
            name: handler_memory(self._memory_monitor, controller, self._status(controller))
            for name, controller in self._controllers.items()
        }
        pids = self._launch_specs.fork_server_pids
        return memory_report(self._memory_monitor, reading, self._controllers, handlers, pids)

    def is_retryable(self, name: str, operation: str) -> bool:
        """Return whether the manifest marks the operation ``retry_on_crash``."""
        manifest = self._controllers[name].entry.manifest if name in self._controllers else None
        note = (manifest.operations or {}).get(operation) if manifest is not None else None
        return note is not None and note.retry_on_crash

    async def launch_spec(self, entry: CatalogEntry, generation: int) -> LaunchSpec:
        """Return the launch specification of a worker (for the controllers)."""
        return await self._launch_specs.build(entry, generation)

    async def memory_estimate(self, entry: CatalogEntry, policy: HandlerPolicy) -> MemoryEstimate:
        """Return the memory that an activation is expected to use (for the controllers)."""
        return await self._memory_monitor.estimate(entry, policy)

    async def was_oom_kill(self) -> bool:
        """Return whether the kernel has just killed a worker for memory (for the controllers)."""
        return await self._memory_monitor.was_oom_kill()

    def on_worker_exit(self, controller: HandlerController, worker: Worker, cause: Cause) -> None:
        """Learn from the exit of a worker (for the controllers)."""
        record_exit(self._memory_monitor, ControlledWorker(controller, worker), worker, cause)

    def on_state_change(
        self, controller: HandlerController, generation: int, kind: str, exit: ExitReport | None = None
    ) -> None:
        """Record a state change of a worker (for the controllers)."""
        if controller.removed and controller.is_unloaded and self._controllers.get(controller.name) is controller:
            del self._controllers[controller.name]
        worker = controller.worker
        if kind == "activated" and worker is not None and controller.activate_seconds is not None:
            self._operations.learn(worker)
            self._memory_monitor.footprints.record_activation(worker.version, controller.activate_seconds)
        fields = state_change_fields(controller, generation, kind, exit)
        self._spawn(self._note(kind, **fields), f"note of {kind}")

    def _controller(self, name: str) -> HandlerController:
        controller = self._controllers.get(name)
        if controller is None:
            known = ", ".join(sorted(self._controllers)) or "none"
            raise UnknownHandler(f"there is no handler {name!r}; there are: {known}", param="handler")
        return controller

    def _policy(self, entry: CatalogEntry) -> HandlerPolicy:
        policy = policy_of(self.config, entry)
        pinned = self._pins.get(entry.name, policy.pin)
        return policy if pinned == policy.pin else msgspec.structs.replace(policy, pin=pinned)

    def _scan(self) -> Catalog:
        blocked = [name for name in self.config.handlers if not self.config.policy(name).enabled]
        return catalogs.scan(self.config.catalog, self._environ, blocked=blocked)

    def _status(self, controller: HandlerController) -> HandlerStatus:
        footprint = self._memory_monitor.footprint(controller.entry)
        window = self.observation.counters.for_handler(controller.name).window
        learned = (footprint.peak or None) if footprint is not None else None
        return handler_status(controller, self._operations.reports(controller.entry), learned, window)

    async def _unload(
        self, controller: HandlerController, mode: UnloadMode, deadline: float | None, cause: Cause
    ) -> UnloadReceipt:
        started = time.monotonic()
        before = await self._memory_monitor.measure()
        was = shown_state(controller)
        seconds = controller.policy.drain_timeout if deadline is None else deadline
        outcome = await controller.unload(mode, seconds, cause)
        after = await self._memory_monitor.measure() if outcome.generation is not None else before
        return unload_receipt(controller, was, outcome, before.total, after.total, time.monotonic() - started)

    async def _note(self, stage: str, **fields: object) -> None:
        """Tell a stage with the memory of all processes."""
        reading = await self._memory_monitor.measure()
        limit = reading.limit
        fields |= {
            "pss": reading.total,
            "host": reading.host,
            "fork_server": reading.fork_server,
            "workers": {name: memory.pss for (name, _), memory in reading.workers.items()},
            "limit": limit.bytes,
            "limit_source": limit.source,
        }
        self.observation.emit(stage, fields)
        await self._memory_monitor.save()

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a defect of the host: %s failed", task.get_name(), exc_info=error)
