"""All handlers of the host: their controllers, which grant leases; actions for operators; start and shutdown.

The supervisor wires its parts and decides nothing about a single handler: that is
done by the handler's controller (``handler_host.lifecycle.controller``).
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from handler_host._internal.background_tasks import BackgroundTasks
from handler_host.config import Config
from handler_host.lifecycle import receipts
from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.events import ShutdownRequested, UnloadMode
from handler_host.lifecycle.handler_registry import ConfigCheck, HandlerRegistry
from handler_host.lifecycle.lease import LeaseContext
from handler_host.lifecycle.operation_registry import OperationRegistry
from handler_host.lifecycle.pending_work import PendingWorkScheduler
from handler_host.lifecycle.reports import (
    HandlerStatus,
    LoadReceipt,
    RescanReport,
    UnloadReceipt,
    VerifyReport,
)
from handler_host.lifecycle.stage_recorder import StageRecorder
from handler_host.lifecycle.status import handler_status
from handler_host.lifecycle.supervisor_services import SupervisorServices
from handler_host.lifecycle.worker_views import SupervisedProcesses
from handler_host.memory.budget import Budget
from handler_host.memory.monitor import MemoryMonitor
from handler_host.memory.sampler import Reading
from handler_host.plugin.errors import ConfigError, Draining, UnknownOperation
from handler_host.telemetry.hub import Observer, TelemetryHub
from handler_host.workers.events import Cause
from handler_host.workers.launch_spec import LaunchSpecBuilder, check_all_settings, default_model

if TYPE_CHECKING:
    from handler_host.lifecycle.memory_report import MemoryReport
    from handler_host.memory.places import PlacesBudget
    from handler_host.workers.worker import MakeCallRunner


class Supervisor:
    """The handlers of a catalog, run in workers within one memory budget.

    ``environ`` holds the secrets; the default is the host's own environment.
    ``check_config`` finds further flaws of the configuration once the catalog is read:
    errors at the start, warnings at a rescan. ``observer`` is called with each stage.
    """

    def __init__(
        self,
        config: Config,
        *,
        environ: Mapping[str, str] | None = None,
        observer: Observer | None = None,
        check_config: ConfigCheck = lambda config, handlers: (),
    ) -> None:
        self.config = config
        self.draining = False
        """Whether new work is refused."""
        self.stopping_soon = False
        """Whether the host is not ready any more, but still serves: load balancers have not noticed yet."""
        self.verified: VerifyReport | None = None
        """The check of this deploy (``handler_host.lifecycle.verification``); None if it does not run."""
        self.telemetry = TelemetryHub(observer)
        environ = dict(os.environ if environ is None else environ)
        self._controllers: dict[str, HandlerController] = {}
        self._dispatches = itertools.count(1)
        self._tasks = BackgroundTasks()
        self._loops: list[asyncio.Task[None]] = []
        """Tasks that run until the shutdown."""
        self._closing: asyncio.Task[None] | None = None
        self._operations = OperationRegistry()
        self._launch_specs = LaunchSpecBuilder(config, environ)
        processes = SupervisedProcesses(
            self._controllers,
            lambda: self._launch_specs.fork_server_pids,
            lambda: self._launch_specs.driver_pids,
        )
        self._memory = MemoryMonitor(config, processes, self.telemetry.history.add)
        self._launch_specs.add_launchers(self._memory.places)
        self._recorder = StageRecorder(self._memory, self.telemetry, self._tasks)
        services = SupervisorServices(
            self._controllers, self._operations, self._launch_specs, self._memory, self._recorder
        )
        self._registry = HandlerRegistry(config, environ, self._controllers, self._operations, services, check_config)
        self.pending_work = PendingWorkScheduler(config.data_dir, self._controllers, lambda: self.draining)

    async def start(self, make_call_runner: MakeCallRunner | None = None) -> None:
        """Read the catalog and start to measure. No worker is launched.

        Without ``make_call_runner`` handlers cannot dispatch to other handlers. Raises
        ``ConfigError`` for a flaw that ``check_config`` finds.
        """
        self._launch_specs.make_call_runner = make_call_runner
        await self._launch_specs.open_control_groups()
        await self._memory.start()
        await self._recorder.record("startup")
        await self._registry.rescan()
        self._launch_specs.use_catalog(self._registry.catalog)
        if flaws := self._registry.config_flaws():
            await self.close()
            raise ConfigError("\n".join(flaws))
        self._loops = [
            self._tasks.spawn(self._memory.sample(), "memory sampler"),
            self._tasks.spawn(self.pending_work.run(), "pending work"),
        ]

    def prepare_before_launch(self, prepare: Callable[[], None]) -> None:
        """Call ``prepare`` once, before the first worker is launched."""
        self._launch_specs.before_first_launch = prepare

    async def ready(self) -> None:
        """Record that the host answers requests."""
        await self._recorder.record("ready", handlers=len(self._controllers))

    async def close(self) -> None:
        """Shut down within ``server.drain_timeout``; return when no process is left, also to a second caller."""
        self.draining = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close of the supervisor")
        # A caller that is cancelled does not stop it.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._recorder.record("stopping")
        seconds = self.config.server.drain_timeout
        await asyncio.gather(*(controller.close(seconds) for controller in self._controllers.values()))
        for loop in self._loops:
            loop.cancel()
        await self._tasks.join()
        await self._launch_specs.close()
        await self._memory.close()
        self.telemetry.events.close()

    def force_shutdown(self) -> None:
        """End at once the dispatches that a shutdown still waits for."""
        for controller in self._controllers.values():
            controller.post(ShutdownRequested(0.0))

    def begin_drain(self) -> None:
        """Refuse new work from now on; admitted dispatches continue."""
        if not self.draining:
            self.draining = True
            self._recorder.record_soon("drain", in_flight=self.in_flight)

    @property
    def budget(self) -> Budget:
        """The bytes that host, fork server and workers may use together."""
        return self._memory.budget

    @property
    def places(self) -> Mapping[str, PlacesBudget]:
        """The accounts of the machines of each launcher, by its name."""
        return self._memory.places

    @property
    def in_flight(self) -> int:
        """Dispatches that have a lease or wait for one."""
        return sum(
            controller.state.in_flight + len(controller.state.waiters) for controller in self._controllers.values()
        )

    def lease(
        self,
        name: str,
        operation: str | None = None,
        patience: float | None = None,
        *,
        admitted: bool = False,
        affinity: str | None = None,
        requested_for: str = "dispatch",
    ) -> LeaseContext:
        """Return a context manager that holds a lease on the handler's worker, and activates it if necessary.

        ``patience`` is the longest time to wait, in seconds. ``admitted`` is for a part of
        a dispatch in flight, which a drain allows to end. Dispatches with the same
        ``affinity`` prefer the same worker. Events name ``requested_for`` as the cause of
        an activation. Raises ``UnknownHandler``,
        ``UnknownOperation`` and ``Draining``; entering the context manager raises the
        ``HostError`` of a refusal. Both are before anything is sent to the handler.
        """
        if self.draining and not admitted:
            raise Draining("the host is shutting down; send the request to another instance")
        controller = self._registry.get(name)
        known = self._operations.names(controller.entry)
        if operation is not None and known is not None and operation not in known:
            raise UnknownOperation(
                f"{name} has no operation {operation!r}; it has: {', '.join(sorted(known))}", param="operation"
            )
        counted_operation = operation if known is not None else None
        return LeaseContext(controller, next(self._dispatches), patience, counted_operation, affinity, requested_for)

    def operation_names(self, name: str) -> Collection[str] | None:
        """Return the names of a handler's operations, or None if they are not known yet; raises ``UnknownHandler``."""
        return self._operations.names(self._registry.get(name).entry)

    def is_retryable(self, name: str, operation: str) -> bool:
        """Return whether the manifest marks the operation ``retry_on_crash``."""
        manifest = self._controllers[name].entry.manifest if name in self._controllers else None
        note = (manifest.operations or {}).get(operation) if manifest is not None else None
        return note is not None and note.retry_on_crash

    def has_handler(self, name: str) -> bool:
        """Return whether there is a handler of this name."""
        return name in self._controllers

    def require_handler(self, name: str) -> None:
        """Raise ``UnknownHandler`` unless there is a handler of this name."""
        self._registry.get(name)

    def activate_timeout(self, name: str) -> float:
        """Return the longest time of a handler's activation, in seconds; raises ``UnknownHandler``."""
        return self._registry.get(name).policy.activate_timeout

    def status(self, name: str) -> HandlerStatus:
        """Return the status of one handler; raises ``UnknownHandler``."""
        return self._status(self._registry.get(name))

    def statuses(self) -> list[HandlerStatus]:
        """Return the status of every handler, by name."""
        return [self._status(self._controllers[name]) for name in sorted(self._controllers)]

    def _status(self, controller: HandlerController) -> HandlerStatus:
        footprint = self._memory.footprint(controller.entry)
        window = self.telemetry.counters.for_handler(controller.name).window
        learned = (footprint.peak or None) if footprint is not None else None
        operations = self._operations.reports(controller.entry)
        return handler_status(controller, operations, learned, window, default_model(self.config, controller.entry))

    async def load(self, name: str) -> LoadReceipt:
        """Activate a handler; returns when it is active. Raises the ``HostError`` of a failure."""
        return await receipts.load(self._registry, self._memory, name)

    async def unload(
        self, name: str, mode: UnloadMode = "drain", deadline: float | None = None, cause: Cause = Cause.OPERATOR
    ) -> UnloadReceipt:
        """Unload a handler; returns when its process has exited and its memory is free.

        ``deadline`` is in seconds, by default the handler's ``drain_timeout``. Raises
        ``UnknownHandler``, and ``HandlerBusy`` for ``if_idle``.
        """
        return await receipts.unload(self._registry.get(name), self._memory, mode, deadline, cause)

    async def unload_without_receipt(self, name: str, mode: UnloadMode, deadline: float | None) -> None:
        """Unload a handler as :meth:`unload` does, but before every later dispatch: nothing is measured first."""
        await self._registry.get(name).request_unload(mode, deadline, Cause.OPERATOR)

    async def reload(self, name: str, mode: UnloadMode = "drain", deadline: float | None = None) -> UnloadReceipt:
        """Rescan, and unload a handler, so that its next dispatch runs the version installed now."""
        self._registry.get(name)
        await self.rescan()
        return await receipts.unload(self._registry.get(name), self._memory, mode, deadline, Cause.RELOAD)

    async def pin(self, name: str, *, pinned: bool) -> HandlerStatus:
        """Exempt a handler from idle unload and eviction until the host's next start, or end the exemption."""
        if self._registry.pin(name, pinned=pinned):
            await self._recorder.record("pinned", handler=name, pin=pinned)
        return self.status(name)

    def set_keep_alive(self, name: str, seconds: float | None) -> None:
        """Set the idle time of a handler until the next call; None: that of the configuration, negative: no end.

        ``max_keep_alive`` bounds it. Raises ``UnknownHandler``.
        """
        self._registry.set_keep_alive(name, seconds)

    async def forget(self, name: str) -> HandlerStatus:
        """Discard the memory that was learned of a handler; its next worker reserves the estimate."""
        self._registry.get(name)
        versions = self._memory.footprints.forget(name)
        await self._memory.save()
        await self._recorder.record("forgotten", handler=name, versions=versions)
        return self.status(name)

    async def rescan(self) -> RescanReport:
        """Read the catalog again; new workers run what is installed now, see :meth:`HandlerRegistry.rescan`."""
        report = await self._registry.rescan()
        self._launch_specs.use_catalog(self._registry.catalog)
        if report.added or report.removed or report.changed:
            # The modules that the fork server has preloaded may be outdated.
            self._launch_specs.retire_fork_server()
        for name in (*report.added, *report.changed):
            self._launch_specs.compile_lean(self._registry.get(name).entry)
        await self._recorder.record("rescan", added=report.added, removed=report.removed, changed=report.changed)
        return report

    async def reconfigure(self, config: Config) -> None:
        """Apply another configuration; running workers keep what they were launched with.

        Raises ``ConfigError`` for settings that do not fit a handler's manifest, and then
        keeps the present configuration.
        """
        check_all_settings(config, await self._registry.scan(config))
        self._launch_specs.reconfigure(config)
        self.config = self._registry.config = config
        await self._memory.reconfigure(config)
        await self.rescan()

    async def try_fork(self) -> int:
        """Fork a worker without a handler, and kill it; return its process ID. Raises ``HostError``."""
        return await self._launch_specs.try_fork()

    def stop_idle_fork_server(self) -> None:
        """Stop the fork server if it has no worker."""
        self._launch_specs.stop_idle_fork_server()

    async def refresh(self) -> None:
        """Measure the memory, unless the latest measurement is younger than ``memory.sample_interval``."""
        if self._closing is None:
            await self._memory.refresh()

    async def memory(self) -> MemoryReport:
        """Measure the host and all its processes now."""
        return self._memory_report(await self._memory.measure())

    def last_memory(self) -> MemoryReport:
        """Return the latest measurement; the first one is made at the start."""
        assert self._memory.latest is not None, "the host has started"
        return self._memory_report(self._memory.latest)

    def _memory_report(self, reading: Reading) -> MemoryReport:
        from handler_host.lifecycle.memory_report import memory_report  # with the first request for a report

        return memory_report(self._memory, reading, self._controllers, self._launch_specs.fork_server_pids)
