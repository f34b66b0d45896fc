"""Which plan a set of handlers needs: what the host takes idle, with one, with the expected ones, with all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from handler_host._internal.units import format_duration, format_size
from handler_host.config import MB, Config
from handler_host.memory.cgroups import MemoryLimit

PLANS = (512 * MB, 1024 * MB, 2048 * MB, 4096 * MB)
"""Sizes of containers that are commonly sold."""
HOST = 34 * MB
"""PSS of an idle host, by bench/memory.py."""
FORK_SERVER = 18 * MB
"""PSS of the fork server beside it, by bench/memory.py."""
BUSIEST = 2
"""Handlers that are expected at a time beside those that are pinned, where nobody says."""


class Footprint(NamedTuple):
    """What a handler takes, and how that is known."""

    handler: str
    bytes: int
    known: str
    """``measured``, ``learned`` by a host, ``estimated`` by its manifest or its configuration, or ``assumed``."""
    pinned: bool
    activate_seconds: float | None = None
    """What an activation took; None: nobody knows."""


class Need(NamedTuple):
    """What a set of handlers needs with the host."""

    name: str
    handlers: tuple[str, ...]
    bytes: int

    def fits(self, config: Config, size: int) -> bool:
        """Tell whether it fits into a plan, with the headroom that is configured."""
        return self.bytes <= budget_of(config, size)


def budget_of(config: Config, size: int) -> int:
    """Return what may be used of a plan's memory."""
    headroom = config.memory.headroom
    return size - (int(size * headroom) if isinstance(headroom, float) else headroom)


def needs(footprints: Sequence[Footprint], expected: Sequence[str]) -> list[Need]:
    """Return what is needed idle, by each handler alone, by the expected set, and by all at once."""
    base = HOST + FORK_SERVER
    idle = [one for one in footprints if one.pinned]
    found = [Need("idle", tuple(one.handler for one in idle), (base if idle else HOST) + _sum(idle))]
    found += [Need(one.handler, (one.handler,), base + one.bytes) for one in footprints]
    busiest = [one for one in footprints if one.handler in expected]
    found.append(Need("expected", tuple(one.handler for one in busiest), base + _sum(busiest)))
    found.append(Need("all at once", tuple(one.handler for one in footprints), base + _sum(footprints)))
    return found


def expected_of(footprints: Sequence[Footprint]) -> list[str]:
    """Return who is taken to be active at the busiest time: the pinned ones, and the largest others."""
    others = sorted((one for one in footprints if not one.pinned), key=lambda one: one.bytes, reverse=True)
    return [one.handler for one in footprints if one.pinned] + [one.handler for one in others[:BUSIEST]]


def advice(config: Config, limit: MemoryLimit, footprints: Sequence[Footprint], found: Sequence[Need]) -> Iterator[str]:
    """Yield what to change, or why nothing has to be, under the limit in force."""
    by_name = {need.name: need for need in found}
    everything, busy, idle = by_name["all at once"], by_name["expected"], by_name["idle"]
    usable = limit.usable
    room = f"{format_size(usable)} (the limit of {format_size(limit.bytes)} less the headroom)"
    guesses = [one.handler for one in footprints if one.known == "assumed"]
    if guesses:
        yield f"the memory of {', '.join(guesses)} is a guess: handler-host doctor --measure"
    for one in footprints:
        if by_name[one.handler].bytes > usable:
            need = format_size(by_name[one.handler].bytes)
            yield f"{one.handler} never fits: it needs {need} of {room}; {_larger(config, by_name[one.handler])}"
    if everything.bytes <= usable:
        yield f"all handlers at once fit into {room}: nothing is ever unloaded for want of memory"
        if config.defaults.idle_after is not None:
            after = format_duration(config.defaults.idle_after)
            yield f'idle_after is {after}; a longer one, or "never", saves cold starts and costs nothing here'
        return
    if busy.bytes <= usable:
        names = ", ".join(busy.handlers)
        yield f"the busiest expected set ({names}) fits into {room}; the budget unloads idle handlers for others"
    else:
        yield f"the busiest expected set needs {format_size(busy.bytes)} of {room}: {_larger(config, busy)}"
        yield "until then requests wait for each other's memory; shorter idle_after lets them wait less"
    pinned = [one for one in footprints if one.pinned]
    if pinned and idle.bytes > usable / 2:
        names = ", ".join(one.handler for one in pinned)
        yield f"pinned handlers ({names}) hold {format_size(idle.bytes)} for ever, over half of it: unpin the largest"


def _larger(config: Config, need: Need) -> str:
    plan = next((size for size in PLANS if need.fits(config, size)), None)
    return f"take a plan of {format_size(plan)}" if plan is not None else "no common plan is enough"


def _sum(footprints: Iterable[Footprint]) -> int:
    return sum(one.bytes for one in footprints)
