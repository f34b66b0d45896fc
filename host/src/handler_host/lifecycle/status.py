"""One handler as operators see it: facts of the catalog beside the state of its controller."""

from __future__ import annotations

import time

from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.reports import HandlerStatus, OperationReport, WorkerStatus
from handler_host.lifecycle.state import Phase, WorkerPhase
from handler_host.lifecycle.worker_runner import WorkerRunner
from handler_host.telemetry.counters import LatencyWindow
from handler_host.workers.exit_report import ExitReport
from handler_host.workers.launch_spec import python_of


def state_change_fields(
    controller: HandlerController, runner: WorkerRunner, kind: str, exit: ExitReport | None
) -> dict[str, object]:
    """Return the fields of a state change of a worker for log and events; ``exit`` is how the worker exited."""
    fields: dict[str, object] = {"handler": controller.name, "generation": runner.generation}
    worker = controller.state.worker(runner.generation)
    if kind in ("activating", "activated", "failed"):
        fields["for"] = runner.started_for
    if kind == "activated":
        fields["seconds"] = controller.activate_seconds
    elif kind == "draining" and worker is not None and worker.drain is not None:
        fields |= {"cause": worker.drain.cause.value, "in_flight": len(worker.leases)}
    elif exit is not None:
        fields |= {"cause": exit.kind, "exit": exit.text, "worker_pss": exit.pss, "given_back": exit.given_back}
    elif kind == "failed" and controller.state.error is not None:
        fields["error"] = controller.state.error.message
    return fields


def handler_status(
    controller: HandlerController,
    operations: list[OperationReport] | None,
    learned: int | None,
    recent: LatencyWindow,
    default_model: str | None,
) -> HandlerStatus:
    """Return the status of a handler."""
    entry, state, worker = controller.entry, controller.state, controller.worker
    now = time.monotonic()
    idle_since = controller.idle_since
    return HandlerStatus(
        name=entry.name,
        state=shown_state(controller),
        reason=_reason(controller),
        distribution=entry.distribution,
        version=entry.version,
        plugin=entry.plugin,
        title=entry.title,
        models=entry.models,
        default_model=default_model,
        description=entry.manifest.description if entry.manifest is not None else "",
        operations=operations,
        isolation=controller.policy.isolation,
        python=python_of(controller.policy, entry),
        pin=controller.policy.pin,
        generation=worker.generation if worker is not None else state.generation,
        max_workers=controller.policy.max_workers,
        workers=[_worker_status(controller, runner, now) for runner in controller.runners],
        pid=worker.pid if worker is not None else None,
        confinement=_confinement(controller),
        place=worker.place if worker is not None else None,
        pss=worker_pss(controller),
        learned_pss=learned,
        in_flight=state.in_flight,
        queued=len(state.waiters),
        idle_for=now - idle_since if idle_since is not None else None,
        expires_in=controller.expires_in(),
        retry_in=max(0.0, state.retry_at - now) if state.retry_at is not None else None,
        dispatches=controller.dispatches,
        error_rate=recent.error_rate(),
        median_seconds=recent.quantile(0.5),
        p99_seconds=recent.quantile(0.99),
        last_exit=controller.last_exit,
    )


def _confinement(controller: HandlerController) -> list[str] | None:
    worker = controller.worker
    return list(worker.ready.confinement) if worker is not None and worker.ready is not None else None


def worker_pss(controller: HandlerController) -> int | None:
    """Return the PSS of a handler's workers at the latest measurement; None without a running worker."""
    sizes = [worker.pss for worker in controller.workers if worker.exit is None and worker.pss is not None]
    return sum(sizes) if sizes else None


def _worker_status(controller: HandlerController, runner: WorkerRunner, now: float) -> WorkerStatus:
    worker, state = runner.worker, controller.state.worker(runner.generation)
    phase = runner.phase if state is None else state.phase
    in_flight = state.leases.size if state is not None else 0
    channel = worker.channel if worker is not None else None
    idle_since = runner.busy.idle_since
    return WorkerStatus(
        generation=runner.generation,
        state=("active" if in_flight else "idle") if phase is WorkerPhase.READY else phase.value,
        started_for=runner.started_for,
        version=worker.version[2] if worker is not None else None,
        pid=worker.pid if worker is not None else None,
        place=worker.place if worker is not None else None,
        pss=worker.pss if worker is not None and worker.exit is None else None,
        in_flight=in_flight,
        dispatches=worker.served if worker is not None else 0,
        cpu=channel.pongs.used_share if channel is not None else None,
        idle_for=now - idle_since if idle_since is not None else None,
        expires_in=runner.expires_in(),
    )


def shown_state(controller: HandlerController) -> str:
    """Return the state of a handler as operators see it, such as ``idle`` or ``missing-secret``."""
    state, problem = controller.state, controller.entry.problem
    if state.phase in (Phase.COLD, Phase.FAILED) and problem is not None:
        return problem.state
    if state.phase is Phase.READY:
        return "active" if state.in_flight else "idle"
    return str(state.phase.value)


def _reason(controller: HandlerController) -> str | None:
    state, problem = controller.state, controller.entry.problem
    if controller.removed:
        return "its distribution was removed; the worker runs until it is unloaded"
    if problem is not None:
        return problem.reason
    if state.error is not None:
        return state.error.message
    if state.phase is Phase.WAITING:
        return "waits for memory"
    drains = [worker.drain for worker in state.workers if worker.drain is not None]
    return str(drains[0].cause.value) if drains and state.phase is Phase.DRAINING else None
