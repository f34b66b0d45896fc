"""The memory that sets of handlers need, and the container sizes that they fit into."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from handler_host._internal.units import format_duration, format_size
from handler_host.config import MB, Config
from handler_host.memory.cgroups import MemoryLimit

PLAN_SIZES = (512 * MB, 1024 * MB, 2048 * MB, 4096 * MB)
"""Memory of containers that hosting providers commonly sell."""
HOST_BYTES = 34 * MB
"""PSS of an idle host (`make bench-memory`)."""
FORK_SERVER_BYTES = 18 * MB
"""PSS of the fork server beside it (`make bench-memory`)."""
DEFAULT_EXPECTED = 2
"""Handlers that are expected to be active at a time beside the pinned ones."""


class Footprint(NamedTuple):
    """The memory of an active handler, and where the figure comes from."""

    handler: str
    bytes: int
    known: str
    """``measured`` now, ``learned`` by a host, ``estimated`` by manifest or configuration, or ``assumed``."""
    pinned: bool
    activate_seconds: float | None = None
    """Time of an activation; None: unknown."""


class Need(NamedTuple):
    """The memory of the host with a set of active handlers."""

    name: str
    handlers: tuple[str, ...]
    bytes: int

    def fits(self, config: Config, size: int) -> bool:
        """Return whether it fits into a container of ``size`` bytes, less the configured headroom."""
        return self.bytes <= usable_bytes(config, size)


def usable_bytes(config: Config, size: int) -> int:
    """Return the bytes of a container that may be used."""
    headroom = config.memory.headroom
    return size - (int(size * headroom) if isinstance(headroom, float) else headroom)


def compute_needs(footprints: Sequence[Footprint], expected: Sequence[str]) -> list[Need]:
    """Return the needs of the idle host, of each handler alone, of the expected set, and of all handlers at once."""
    base = HOST_BYTES + FORK_SERVER_BYTES
    pinned = [footprint for footprint in footprints if footprint.pinned]
    needs = [Need("idle", _names(pinned), (base if pinned else HOST_BYTES) + _total(pinned))]
    needs += [Need(footprint.handler, (footprint.handler,), base + footprint.bytes) for footprint in footprints]
    busy = [footprint for footprint in footprints if footprint.handler in expected]
    needs.append(Need("expected", _names(busy), base + _total(busy)))
    needs.append(Need("all at once", _names(footprints), base + _total(footprints)))
    return needs


def default_expected(footprints: Sequence[Footprint]) -> list[str]:
    """Return the handlers expected to be active at the busiest time: the pinned ones and the largest others."""
    pinned = [footprint for footprint in footprints if footprint.pinned]
    others = sorted(
        (footprint for footprint in footprints if not footprint.pinned),
        key=lambda footprint: footprint.bytes,
        reverse=True,
    )
    return [*_names(pinned), *_names(others[:DEFAULT_EXPECTED])]


def advise(config: Config, limit: MemoryLimit, footprints: Sequence[Footprint], needs: Sequence[Need]) -> Iterator[str]:
    """Yield what to change under the limit in force, or why nothing needs to change."""
    by_name = {need.name: need for need in needs}
    everything, busy, idle = by_name["all at once"], by_name["expected"], by_name["idle"]
    usable = limit.usable
    budget = f"{format_size(usable)} (the limit of {format_size(limit.bytes)} less the headroom)"
    guesses = [footprint.handler for footprint in footprints if footprint.known == "assumed"]
    if guesses:
        yield f"the memory of {', '.join(guesses)} is a guess; measure it: handler-host doctor --measure"
    for footprint in footprints:
        need = by_name[footprint.handler]
        if need.bytes > usable:
            size = format_size(need.bytes)
            yield f"{footprint.handler} never fits: it needs {size} of {budget}; {_larger_plan(config, need)}"
    if everything.bytes <= usable:
        yield f"all handlers at once fit into {budget}: none is ever unloaded for lack of memory"
        if config.defaults.idle_after is not None:
            after = format_duration(config.defaults.idle_after)
            yield f'idle_after is {after}; a longer time, or "never", saves cold starts and costs nothing here'
        return
    if busy.bytes <= usable:
        names = ", ".join(busy.handlers)
        yield f"the busiest expected set ({names}) fits into {budget}; the host unloads idle handlers for others"
    else:
        yield f"the busiest expected set needs {format_size(busy.bytes)} of {budget}: {_larger_plan(config, busy)}"
        yield "until then requests wait for the memory of other handlers; a shorter idle_after shortens the wait"
    pinned = [footprint.handler for footprint in footprints if footprint.pinned]
    if pinned and idle.bytes > usable / 2:
        names = ", ".join(pinned)
        yield f"pinned handlers ({names}) always hold {format_size(idle.bytes)}, over half of it; unpin the largest"


def _larger_plan(config: Config, need: Need) -> str:
    plan = next((size for size in PLAN_SIZES if need.fits(config, size)), None)
    return f"use a container of {format_size(plan)}" if plan is not None else "no common container size is enough"


def _names(footprints: Iterable[Footprint]) -> tuple[str, ...]:
    return tuple(footprint.handler for footprint in footprints)


def _total(footprints: Iterable[Footprint]) -> int:
    return sum(footprint.bytes for footprint in footprints)
