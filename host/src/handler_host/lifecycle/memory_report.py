"""The memory report for operators: the limit, its users, and the evictions that would come next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.reports import (
    Eviction,
    HandlerMemory,
    MemoryReport,
    Pressure,
    Sampling,
    WaitingForMemory,
    WorkerMemory,
)
from handler_host.lifecycle.status import shown_state, worker_pss
from handler_host.memory.monitor import MemoryMonitor
from handler_host.memory.sampler import Reading


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
        worker = next((entry for entry in workers if entry.generation == generation and entry.pid is not None), None)
        if worker is None or worker.pid is None:
            continue
        first = reports.get(name)
        reports[name] = WorkerMemory(
            pid=first.pid if first is not None else worker.pid,
            generation=first.generation if first is not None else generation,
            pss=memory.pss + (first.pss if first is not None else 0),
            uss=memory.uss + (first.uss if first is not None else 0),
            rss=memory.rss + (first.rss if first is not None else 0),
            peak=worker.usage.peak + (first.peak if first is not None else 0),
            droppable=memory.droppable + (first.droppable if first is not None else 0),
        )
    return reports
