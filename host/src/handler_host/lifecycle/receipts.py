"""Loads and unloads for operators, each answered with a receipt: what changed, and the memory before and after."""

from __future__ import annotations

import time

from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.events import UnloadMode
from handler_host.lifecycle.handler_registry import HandlerRegistry
from handler_host.lifecycle.reports import LoadReceipt, UnloadReceipt
from handler_host.lifecycle.state import Phase
from handler_host.lifecycle.status import shown_state
from handler_host.memory.monitor import MemoryMonitor
from handler_host.workers.events import Cause


async def load(registry: HandlerRegistry, monitor: MemoryMonitor, name: str) -> LoadReceipt:
    """Activate a handler; returns when it is active. Raises the ``HostError`` of a failure."""
    registry.get(name)
    before = await monitor.measure()
    # Looked up again: a rescan may have removed the handler meanwhile, and no controller would own its worker.
    controller = registry.get(name)
    already = controller.state.phase is Phase.READY
    await controller.load()
    after = before if already else await monitor.measure()
    worker = controller.worker
    ready_at = worker.ready_at if worker is not None else None
    return LoadReceipt(
        handler=name,
        generation=controller.state.generation,
        pid=(worker.pid if worker is not None else None) or 0,
        already=already,
        activate_seconds=ready_at - worker.launched_at if worker is not None and ready_at is not None else 0.0,
        pss_before=before.total,
        pss_after=after.total,
    )


async def unload(
    controller: HandlerController, monitor: MemoryMonitor, mode: UnloadMode, deadline: float | None, cause: Cause
) -> UnloadReceipt:
    """Unload a handler; returns when its process has exited and its memory is free.

    ``deadline`` is in seconds; None means the handler's ``drain_timeout``.
    """
    started = time.monotonic()
    before = await monitor.measure()
    was = shown_state(controller)
    outcome = await controller.request_unload(mode, deadline, cause)
    after = await monitor.measure() if outcome.generation is not None else before
    drain = outcome.drain
    return UnloadReceipt(
        handler=controller.name,
        generation=outcome.generation,
        was=was,
        bytes_given_back=outcome.given_back,
        workers=outcome.workers,
        pss_before=before.total,
        pss_after=after.total,
        drained=drain.drained if drain is not None else 0,
        killed=drain.killed if drain is not None else 0,
        seconds=time.monotonic() - started,
        exit=outcome.exit,
    )
