"""The services of the supervisor for the controllers: launch specifications, memory, and records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.config import HandlerPolicy
from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.operation_registry import OperationRegistry
from handler_host.lifecycle.stage_recorder import StageRecorder
from handler_host.lifecycle.status import state_change_fields
from handler_host.lifecycle.worker_runner import WorkerRunner
from handler_host.lifecycle.worker_views import ControlledWorker
from handler_host.memory.budget import MemoryEstimate, WorkerBudget
from handler_host.memory.monitor import MemoryMonitor
from handler_host.memory.trim import HeapTrimmer
from handler_host.workers.events import Cause
from handler_host.workers.exit_report import ExitReport
from handler_host.workers.launch_spec import LaunchSpecBuilder

if TYPE_CHECKING:
    from handler_host.workers.worker import LaunchSpec, Worker


class SupervisorServices:
    """Implements ``ControllerServices`` for all controllers of a supervisor."""

    def __init__(
        self,
        controllers: dict[str, HandlerController],
        operations: OperationRegistry,
        launch_specs: LaunchSpecBuilder,
        monitor: MemoryMonitor,
        recorder: StageRecorder,
    ) -> None:
        self._controllers = controllers
        self._operations = operations
        self._launch_specs = launch_specs
        self._monitor = monitor
        self._recorder = recorder
        self._trimmer = HeapTrimmer(is_busy=self._has_workers)

    def budget_of(self, policy: HandlerPolicy) -> WorkerBudget:
        """Return the accounts of the machines that run the workers of a handler."""
        return self._monitor.budget_of(policy)

    async def launch_spec(self, entry: CatalogEntry, generation: int) -> LaunchSpec:
        """Return the launch specification of a worker; raises ``HostError``."""
        return await self._launch_specs.build(entry, generation)

    async def memory_estimate(self, entry: CatalogEntry, policy: HandlerPolicy) -> MemoryEstimate:
        """Return the memory that an activation of the handler is expected to use."""
        return await self._monitor.estimate(entry, policy)

    async def was_oom_kill(self) -> bool:
        """Return whether the kernel has just killed a worker for memory."""
        return await self._monitor.was_oom_kill()

    def on_worker_exit(self, controller: HandlerController, worker: Worker, cause: Cause) -> None:
        """Pass the exit of a worker to the memory monitor, which learns from it."""
        ControlledWorker(controller, worker).record_exit(self._monitor, cause)

    def on_state_change(
        self, controller: HandlerController, runner: WorkerRunner, kind: str, exit: ExitReport | None = None
    ) -> None:
        """Record a state change of a worker; drop a controller that the catalog no longer needs."""
        if controller.removed and controller.is_unloaded and self._controllers.get(controller.name) is controller:
            del self._controllers[controller.name]
        worker = runner.worker
        if kind == "activated" and worker is not None and controller.activate_seconds is not None:
            self._operations.learn(worker)
            self._monitor.footprints.record_activation(worker.version, controller.activate_seconds)
        self._recorder.record_soon(kind, **state_change_fields(controller, runner, kind, exit))
        if not self._has_workers():
            self._trimmer.schedule()  # the memory that responses took in the host goes back to the system

    def _has_workers(self) -> bool:
        return any(controller.runners for controller in self._controllers.values())
