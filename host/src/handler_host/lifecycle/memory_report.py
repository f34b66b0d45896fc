"""The memory report for operators: the limit, its users, and the evictions that would come next.

Sizes are in bytes, durations in seconds. The first request for a report imports this module.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.status import shown_state, worker_pss
from handler_host.memory.monitor import MemoryMonitor
from handler_host.memory.sampler import Reading
from handler_host.workers.exit_report import ExitReport


class WorkerMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of a handler's workers together; process and generation are those of the oldest."""

    pid: int
    generation: int
    count: int = 1
    """Number of the workers."""
    pss: int
    uss: int
    rss: int
    peak: int
    """The highest PSS so far, of each worker for itself."""
    droppable: int
    """Bytes of PSS that the kernel can drop and read again: pages of files, such as the weights of a model."""


class HandlerMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of one handler, active or not."""

    state: str
    pin: bool
    pss: int | None
    """At the latest measurement; None without a worker."""
    peak: int | None
    """The highest PSS of the worker so far."""
    counted: int
    """Bytes that the budget counts for it: the larger of measured and reserved."""
    expected: int
    """Bytes that its next activation reserves."""
    expected_source: str
    """``learned``, ``configured``, ``manifest`` or ``default``."""
    learned_peak: int | None
    """The most that a worker of this version used, its activation included."""
    learned_steady: int | None
    """The most that a ready worker of this version used."""
    activate_seconds: float | None
    stop_seconds: float | None
    out_of_memory: int
    """Workers of this version that were killed for memory."""
    soft_limit: int | None
    hard_limit: int | None
    last_exit: ExitReport | None


class Eviction(msgspec.Struct, frozen=True, kw_only=True):
    """An idle handler that may be unloaded for another one."""

    handler: str
    generation: int
    size: int
    """Bytes that this frees."""
    idle_for: float


class WaitingForMemory(msgspec.Struct, frozen=True, kw_only=True):
    """An activation that waits for memory."""

    handler: str
    amount: int
    waited: float


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """Memory pressure as the kernel reports it."""

    short: bool
    """Whether idle handlers are being unloaded, and activations wait."""
    stalled_share: float
    """Share of the time between the last two measurements in which tasks waited for memory."""
    threshold: float | None
    stalled_source: str | None
    kills: int | None
    """Processes killed for memory since the kernel's count began."""
    kills_source: str | None


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of measuring."""

    cost: float
    """Seconds of processor time for one measurement."""
    every: float
    share: float
    """Of one processor."""


class MemoryReport(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of the host and all its processes, and the limit."""

    limit: int
    limit_source: str
    limit_path: str | None
    """The file that the limit was read from."""
    headroom: int
    usable: int
    """The limit less the headroom."""
    used: int
    droppable: int
    """Bytes of ``used`` that the kernel can drop and read again: pages of files."""
    reserved: int
    """Reserved beyond the present use: for activations, and for workers that used more before."""
    others: int
    """Used in the limiting control group by other processes, or by the kernel for the host's."""
    room: int
    """Bytes that can still be reserved; negative if usage is over the budget."""
    host: int
    fork_server: int | None
    """None without a fork server."""
    fork_server_pids: list[int]
    workers: dict[str, WorkerMemory]
    handlers: dict[str, HandlerMemory]
    learned: dict[str, int]
    """The most that a worker of each handler used."""
    evict_next: list[Eviction]
    """Possible evictions, least recently used first."""
    waiting: list[WaitingForMemory]
    refused: int
    """Activations refused for want of memory since the start."""
    pressure: Pressure
    sampling: Sampling
    state_file: str | None
    """The file of learned footprints."""
    measure: str
    """The measure of the figures: ``pss``, or ``uss`` or ``rss`` where the system lacks PSS."""


def handler_memory(monitor: MemoryMonitor, controller: HandlerController) -> HandlerMemory:
    """Return the memory figures of one handler."""
    estimate = monitor.expected(controller.entry, controller.policy)
    footprint, worker = monitor.footprint(controller.entry), controller.worker
    return HandlerMemory(
        state=shown_state(controller),
        pin=controller.policy.pin,
        pss=worker_pss(controller),
        peak=worker.usage.peak if worker is not None and worker.pss is not None else None,
        counted=sum(monitor.size_of(controller.name, entry.generation) for entry in controller.workers),
        expected=estimate.amount,
        expected_source=estimate.source,
        learned_peak=(footprint.peak or None) if footprint is not None else None,
        learned_steady=(footprint.steady or None) if footprint is not None else None,
        activate_seconds=footprint.activate_seconds if footprint is not None else None,
        stop_seconds=footprint.stop_seconds if footprint is not None else None,
        out_of_memory=footprint.out_of_memory if footprint is not None else 0,
        soft_limit=controller.policy.memory_soft_limit,
        hard_limit=controller.policy.memory_hard_limit,
        last_exit=controller.last_exit,
    )


def memory_report(
    monitor: MemoryMonitor,
    reading: Reading,
    controllers: Mapping[str, HandlerController],
    fork_server_pids: Sequence[int],
) -> MemoryReport:
    """Return the memory of all processes as ``reading`` has it."""
    now = time.monotonic()
    limit, ledger, kernel = reading.limit, monitor.budget.ledger, reading.kernel
    idle_since = {(entry.handler, entry.generation): entry.idle_since for entry in monitor.candidates()}
    footprints = monitor.footprints
    handlers = {name: handler_memory(monitor, controllers[name]) for name in sorted(controllers)}
    return MemoryReport(
        limit=limit.bytes,
        limit_source=limit.source,
        limit_path=limit.path,
        headroom=limit.bytes - limit.usable,
        usable=limit.usable,
        used=reading.total,
        droppable=reading.droppable,
        reserved=ledger.reserved,
        others=reading.external_usage,
        room=ledger.available,
        host=reading.host,
        fork_server=reading.fork_server,
        fork_server_pids=list(fork_server_pids),
        workers=_workers(reading, controllers),
        handlers=handlers,
        learned={name: memory.learned_peak for name, memory in handlers.items() if memory.learned_peak is not None},
        evict_next=[
            Eviction(
                handler=eviction.handler,
                generation=eviction.generation,
                size=eviction.size,
                idle_for=now - idle_since.get((eviction.handler, eviction.generation), now),
            )
            for eviction in ledger.evictable()
        ],
        waiting=[
            WaitingForMemory(handler=waiting.handler, amount=waiting.amount, waited=now - waiting.since)
            for waiting in monitor.budget.waiting
        ],
        refused=monitor.budget.refused,
        pressure=Pressure(
            short=ledger.under_pressure,
            stalled_share=monitor.pressure.share,
            threshold=monitor.config.pressure,
            stalled_source=kernel.stalled_source,
            kills=kernel.kills,
            kills_source=kernel.kills_source,
        ),
        sampling=Sampling(cost=monitor.cost, every=monitor.interval, share=monitor.cost / monitor.interval),
        state_file=str(footprints.path) if footprints.path is not None else None,
        measure=reading.measure,
    )


def _workers(reading: Reading, controllers: Mapping[str, HandlerController]) -> dict[str, WorkerMemory]:
    """Return the measured workers that are still running, by handler: of several the sum, with the oldest's numbers."""
    reports: dict[str, WorkerMemory] = {}
    for (name, generation), memory in sorted(reading.workers.items()):
        workers = controllers[name].workers if name in controllers else []
        worker = next((entry for entry in workers if entry.generation == generation), None)
        if worker is None or worker.pid is None:
            continue
        report = WorkerMemory(
            pid=worker.pid,
            generation=generation,
            pss=memory.pss,
            uss=memory.uss,
            rss=memory.rss,
            peak=worker.usage.peak,
            droppable=memory.droppable,
        )
        reports[name] = _add(reports[name], report) if name in reports else report
    return reports


def _add(first: WorkerMemory, second: WorkerMemory) -> WorkerMemory:
    """Return the memory of both, with the process and the generation of the first."""
    return msgspec.structs.replace(
        first,
        count=first.count + second.count,
        pss=first.pss + second.pss,
        uss=first.uss + second.uss,
        rss=first.rss + second.rss,
        peak=first.peak + second.peak,
        droppable=first.droppable + second.droppable,
    )
