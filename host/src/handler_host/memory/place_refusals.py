"""Errors of activations that get no place on another machine."""

from __future__ import annotations

from collections.abc import Collection

from handler_host._internal.units import format_size
from handler_host.memory.budget import ExceedsMemoryLimit, MemoryEstimate
from handler_host.memory.place import Place
from handler_host.plugin.errors import MemoryBudget

NO_PLACE_RETRY_S = 5.0
"""``Retry-After`` while a launcher has no machine at all."""


def never_fits(launcher: str, places: Collection[Place], handler: str, estimate: MemoryEstimate) -> MemoryBudget:
    """Return the error for a worker that none of the places can ever hold."""
    largest = max(0, *(place.ledger.max_grantable for place in places))
    return ExceedsMemoryLimit(
        f"{handler} needs {_needs(estimate)}, which none of the {len(places)} machines of the "
        f"launcher {launcher!r} has even when it is empty (largest: {format_size(largest)}); "
        "add a machine that has it, or correct memory_estimate and resources of the handler",
        details={"needed": estimate.minimum, "needed_source": estimate.source, "possible": largest},
    )


def no_place(launcher: str, machines: int, handler: str, estimate: MemoryEstimate, wait_s: float) -> MemoryBudget:
    """Return the error for a worker that got no place in time."""
    reason = (
        f"none of its {machines} machines has that available, and no idle handler could be unloaded"
        if machines
        else "it has no machine yet"
    )
    return MemoryBudget(
        f"no place for {handler} on the launcher {launcher!r}: it needs {_needs(estimate)}, and "
        f"{reason} within {wait_s:g} s; retry later, or add a machine",
        retry_after=wait_s or NO_PLACE_RETRY_S,
        details={"needed": estimate.amount, "needed_source": estimate.source, "machines": machines},
    )


def _needs(estimate: MemoryEstimate) -> str:
    parts = [f"{format_size(estimate.minimum)} ({estimate.source})"]
    return ", ".join([*parts, *(f"{amount:g} {name}" for name, amount in estimate.resources.items())])
