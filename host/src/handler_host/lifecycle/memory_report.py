"""What operators are told of memory: the limit, who takes what of it, and who would have to go next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.reports import (
    Eviction,
    HandlerMemory,
    HandlerStatus,
    MemoryReport,
    Pressure,
    Sampling,
    WaitingForMemory,
    WorkerMemory,
)
from handler_host.memory.monitor import MemoryMonitor
from handler_host.memory.sampler import Reading


def handler_memory(watch: MemoryMonitor, controller: HandlerController, status: HandlerStatus) -> HandlerMemory:
    """Return what is known of one handler's memory."""
    expected, found = watch.expected(controller.entry, controller.policy), watch.footprint(controller.entry)
    generation = controller.generation
    return HandlerMemory(
        state=status.state,
        pin=controller.policy.pin,
        pss=status.pss,
        peak=generation.peak if generation is not None and generation.pss is not None else None,
        counted=watch.budget.ledger.size_of(controller.name, generation.number) if generation is not None else 0,
        expected=expected.amount,
        expected_source=expected.source,
        learned_peak=(found.peak or None) if found is not None else None,
        learned_steady=(found.steady or None) if found is not None else None,
        activate_seconds=found.activate_seconds if found is not None else None,
        stop_seconds=found.stop_seconds if found is not None else None,
        out_of_memory=found.out_of_memory if found is not None else 0,
        soft_limit=controller.policy.memory_soft_limit,
        hard_limit=controller.policy.memory_hard_limit,
        last_exit=status.last_exit,
    )


def memory_report(
    watch: MemoryMonitor, reading: Reading, fork_servers: Sequence[int], handlers: Mapping[str, HandlerMemory]
) -> MemoryReport:
    """Return the whole of it, as it was just measured."""
    now = time.monotonic()
    limit, ledger, kernel = reading.limit, watch.budget.ledger, reading.kernel
    workers: dict[str, WorkerMemory] = {}
    for (name, number), memory in reading.workers.items():
        generation = watch.controllers[name].generation if name in watch.controllers else None
        if generation is not None and generation.number == number and generation.pid is not None:
            workers[name] = WorkerMemory(
                pid=generation.pid,
                generation=number,
                pss=memory.pss,
                uss=memory.uss,
                rss=memory.rss,
                peak=generation.peak,
            )
    idle_since = {one.handler: one.idle_since for one in watch.candidates()}
    return MemoryReport(
        limit=limit.bytes,
        limit_source=limit.source,
        limit_path=limit.path,
        headroom=limit.bytes - limit.usable,
        usable=limit.usable,
        used=reading.total,
        reserved=ledger.reserved,
        others=reading.others,
        room=ledger.room,
        host=reading.host,
        fork_server=reading.fork_server,
        fork_server_pids=list(fork_servers),
        workers=workers,
        handlers=dict(sorted(handlers.items())),
        learned={name: one.learned_peak for name, one in handlers.items() if one.learned_peak is not None},
        evict_next=[
            Eviction(
                handler=one.handler,
                generation=one.generation,
                size=one.size,
                idle_for=now - idle_since.get(one.handler, now),
            )
            for one in ledger.evictable()
        ],
        waiting=[
            WaitingForMemory(handler=one.handler, amount=one.amount, waited=now - one.since)
            for one in watch.budget.waiting
        ],
        refused=watch.budget.refused,
        pressure=Pressure(
            short=ledger.under_pressure,
            stalled_share=watch.stalls.share,
            threshold=watch.config.pressure,
            stalled_source=kernel.stalled_source,
            kills=kernel.kills,
            kills_source=kernel.kills_source,
        ),
        sampling=Sampling(cost=watch.cost, every=watch.pause, share=watch.cost / watch.pause),
        state_file=str(watch.learned.path) if watch.learned.path is not None else None,
        measure=reading.measure,
    )
