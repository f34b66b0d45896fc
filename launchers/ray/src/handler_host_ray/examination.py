"""Findings of ``handler-host doctor ray`` about a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from handler_host._internal.units import format_size
from handler_host._internal.versions import __version__
from handler_host.workers.remote.engine import Finding, PlaceReport
from handler_host_ray.machine import machine_memory, oversized
from handler_host_ray.options import RayOptions

PROBE_TIMEOUT = 30.0
"""Seconds for a process on each node: Ray may have to start it first."""


def examine(
    ray: Any, options: RayOptions, places: Sequence[PlaceReport], node_ids: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield the findings about the cluster that this process is connected to; ``node_ids`` by names of places."""
    yield Finding(True, f"cluster {options.address}: Ray {ray.__version__}, Python {sys.version.split()[0]}")
    if os.environ.get("RAY_AUTH_MODE") == "token":
        yield Finding(True, "token authentication is on")
    else:
        yield Finding(
            False,
            "token authentication is off: everybody in this network can run code on the cluster; start it with "
            "RAY_AUTH_MODE=token and set launchers.ray.auth_token_file",
        )
    if os.environ.get("RAY_USE_TLS") == "1":
        yield Finding(True, "Ray's own TLS is on")
    else:
        yield Finding(True, "Ray's own TLS is off: tokens of workers, used once, pass the network in clear")
    yield Finding(bool(places), f"{len(places)} nodes" if places else "no node is alive; start Ray on a machine")
    conditions = _probe_nodes(ray, {place.name: node_ids[place.name] for place in places})
    for place in places:
        resources = ", ".join(f"{amount:g} {name}" for name, amount in sorted(place.resources.items()))
        used = f", {format_size(place.external_usage)} in use by others" if place.external_usage else ""
        flaws = "".join(f"; {flaw}" for flaw in _flaws(place, conditions.get(place.name)))
        yield Finding(not flaws, f"{place.name}: {format_size(place.limit)}{used}, {resources or 'no CPU'}{flaws}")
    if conditions and all(isinstance(each, _Condition) and each.refresh_ms == "0" for each in conditions.values()):
        yield Finding(True, "Ray's memory monitor is off, so that only this host evicts workers")


class _Condition(NamedTuple):
    """What a process on a node sees there."""

    refresh_ms: str
    """Interval of Ray's memory monitor in milliseconds; ``0``: it is off."""
    memory: int
    """Bytes of memory that its machine has."""
    version: str
    """The version of handler-host."""


def _probe_nodes(ray: Any, node_ids: Mapping[str, str]) -> dict[str, _Condition | Exception]:
    """Return the conditions on those nodes that end a process in time, or its failure, by the names of their places."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
    def probe() -> tuple[str, int, str]:
        refresh_ms = os.environ.get("RAY_memory_monitor_refresh_ms", "250")  # noqa: SIM112 - Ray's name
        return refresh_ms, machine_memory(), __version__

    probes = {
        probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)).remote(): name
        for name, node_id in node_ids.items()
    }
    if not probes:
        return {}
    done, _ = ray.wait(list(probes), num_returns=len(probes), timeout=PROBE_TIMEOUT)
    conditions: dict[str, _Condition | Exception] = {}
    for result in done:
        try:
            conditions[probes[result]] = _Condition(*ray.get(result))
        except Exception as error:  # noqa: BLE001 - of any kind: the other nodes are examined all the same
            conditions[probes[result]] = error
    return conditions


def _flaws(place: PlaceReport, condition: _Condition | Exception | None) -> Iterator[str]:
    """Yield what is wrong with a node, with the remedy."""
    if place.flaw is not None:
        yield f"{place.flaw}; start it again with the right size"
    if condition is None:
        yield f"it has not started a process within {PROBE_TIMEOUT:g} s; look at the log of its raylet"
        return
    if isinstance(condition, Exception):
        cause = (str(condition).strip() or type(condition).__name__).splitlines()[-1]
        yield f"a process failed there: {cause}; install handler-host-ray there"
        return
    if place.limit > condition.memory:
        yield oversized(place.limit, condition.memory)
    if condition.refresh_ms != "0":
        yield (
            "Ray's memory monitor is on: it kills workers that this host has not chosen; start the node with "
            "RAY_memory_monitor_refresh_ms=0"
        )
    if condition.version != __version__:
        yield f"it has handler-host {condition.version}, this machine {__version__}; install the same version"
