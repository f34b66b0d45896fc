"""The host's processes as the memory monitor sees them (``handler_host.memory.views``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.events import Evicted, MemoryLimitExceeded
from handler_host.lifecycle.state import WorkerPhase
from handler_host.memory.footprints import HandlerVersion
from handler_host.memory.monitor import MemoryMonitor
from handler_host.memory.procfs import Memory
from handler_host.memory.views import MemoryUsage
from handler_host.workers.events import Cause

if TYPE_CHECKING:
    from handler_host.workers.worker import Worker

TYPICAL_CAUSES = frozenset({Cause.IDLE, Cause.OPERATOR, Cause.RELOAD, Cause.DEPLOY_CHECK, Cause.EVICTED})
"""Causes of an exit after which the memory of a worker is typical of its handler."""


class ControlledWorker:
    """One worker of a controller, with the facts of its handler that decide about its memory."""

    __slots__ = ("_controller", "_worker")

    def __init__(self, controller: HandlerController, worker: Worker) -> None:
        self._controller = controller
        self._worker = worker

    @property
    def handler(self) -> str:
        """The handler's name."""
        return self._worker.handler

    @property
    def generation(self) -> int:
        """The number of the worker."""
        return self._worker.generation

    @property
    def version(self) -> HandlerVersion:
        """The version of the handler that it runs."""
        return self._worker.version

    @property
    def usage(self) -> MemoryUsage:
        """Its measurements."""
        return self._worker.usage

    @property
    def pid(self) -> int | None:
        """Its process ID; None without a process."""
        return self._worker.pid

    @property
    def launcher(self) -> str:
        """The launcher that started it (``isolation``)."""
        return self._worker.policy.isolation

    @property
    def place(self) -> str | None:
        """The machine that it runs on; None for this one."""
        return self._worker.place

    @property
    def reported(self) -> Memory | None:
        """What it reported of its own memory with its latest heartbeat; None on this machine."""
        channel = self._worker.channel
        pong = channel.pongs.latest if channel is not None and self._worker.place is not None else None
        memory = pong.memory if pong is not None else None
        return Memory(memory.pss, memory.uss, memory.rss, peak=memory.peak) if memory is not None else None

    @property
    def is_inline(self) -> bool:
        """Whether it runs in the host's own process."""
        return self._worker.policy.isolation == "inline"

    @property
    def is_ready(self) -> bool:
        """Whether its activation is complete."""
        return self._worker.is_ready

    @property
    def is_exiting(self) -> bool:
        """Whether it was stopped or killed, or has exited."""
        return self._worker.is_exiting

    @property
    def has_exited(self) -> bool:
        """Whether its process has exited."""
        return self._worker.exit is not None

    @property
    def is_pinned(self) -> bool:
        """Whether its handler is pinned."""
        return self._controller.policy.pin

    @property
    def soft_limit(self) -> int | None:
        """``memory_soft_limit`` of its handler; None unless it is ready."""
        state = self._controller.state.worker(self._worker.generation)
        is_ready = state is not None and state.phase is WorkerPhase.READY
        return self._controller.policy.memory_soft_limit if is_ready else None

    @property
    def idle_since(self) -> float | None:
        """Since when it could be evicted, on the monotonic clock; None while it must not be."""
        return self._controller.evictable_since(self._worker.generation)

    @property
    def is_surplus(self) -> bool:
        """Whether its handler stays active without it."""
        return self._controller.is_surplus(self._worker.generation)

    @property
    def seconds_since_launch(self) -> float:
        """Seconds since its launch."""
        return time.monotonic() - self._worker.launched_at

    def busy_for_another(self, default: float) -> float:
        """Return the seconds until it is probably idle: 0 if it is idle, ``default`` if nothing is known."""
        return self._controller.busy_for_another(self._worker.generation, default)

    def record_exit(self, monitor: MemoryMonitor, cause: Cause) -> None:
        """Pass the exit of this worker to the memory monitor, which learns from it."""
        exit, stopped_at = self._worker.exit, self._worker.stopped_at
        monitor.record_exit(
            self,
            killed_for_memory=cause is Cause.OUT_OF_MEMORY and exit is not None and exit.signal is not None,
            is_typical=cause in TYPICAL_CAUSES and self._worker.served > 0,
            max_resident=exit.maxrss if exit is not None else None,
            stop_seconds=time.monotonic() - stopped_at if stopped_at is not None else None,
        )


class SupervisedProcesses:
    """The workers of all controllers, the fork servers, and the drivers of launchers.

    ``fork_servers`` and ``drivers`` return process IDs.
    """

    def __init__(
        self,
        controllers: Mapping[str, HandlerController],
        fork_servers: Callable[[], Sequence[int]],
        drivers: Callable[[], Sequence[int]],
    ) -> None:
        self._controllers = controllers
        self.fork_servers = fork_servers
        self.drivers = drivers

    def workers(self) -> Iterator[ControlledWorker]:
        """Yield all workers."""
        for controller in self._controllers.values():
            for worker in controller.workers:
                yield ControlledWorker(controller, worker)

    def worker(self, handler: str, generation: int) -> ControlledWorker | None:
        """Return one worker; None if it is not there, or has no process yet."""
        controller = self._controllers.get(handler)
        if controller is None:
            return None
        worker = next((entry for entry in controller.workers if entry.generation == generation), None)
        return ControlledWorker(controller, worker) if worker is not None else None

    def has_activations(self) -> bool:
        """Return whether a handler activates, or waits for memory to do so."""
        activating = (WorkerPhase.WAITING, WorkerPhase.ACTIVATING)
        return any(
            worker.phase in activating
            for controller in self._controllers.values()
            for worker in controller.state.workers
        )

    def evict(self, handler: str, generation: int) -> None:
        """Unload an idle worker for the sake of its memory."""
        self._controllers[handler].post(Evicted(generation))

    def recycle(self, handler: str, generation: int) -> None:
        """Unload a worker that is over its soft limit, after its present dispatches."""
        self._controllers[handler].post(MemoryLimitExceeded(generation, Cause.RECYCLED))
