"""Findings of ``handler-host doctor ray`` about a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from handler_host._internal.units import format_size
from handler_host.workers.remote.engine import Finding, PlaceReport
from handler_host_ray.options import RayOptions


def examine(ray: Any, options: RayOptions, places: Sequence[PlaceReport]) -> list[Finding]:
    """Return the findings about the cluster that this process is connected to."""
    return list(_findings(ray, options, places))


def _findings(ray: Any, options: RayOptions, places: Sequence[PlaceReport]) -> Iterator[Finding]:
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
    yield _memory_monitor(ray)
    yield Finding(bool(places), f"{len(places)} nodes" if places else "no node is alive; start Ray on a machine")
    for place in places:
        resources = ", ".join(f"{amount:g} {name}" for name, amount in sorted(place.resources.items()))
        used = f", {format_size(place.external_usage)} in use by others" if place.external_usage else ""
        yield Finding(place.flaw is None, f"{place.name}: {format_size(place.limit)}{used}, {resources or 'no CPU'}")


def _memory_monitor(ray: Any) -> Finding:
    """Return whether Ray's memory monitor is off on a node: it kills workers by rules of its own."""

    @ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
    def refresh_ms() -> str:
        return os.environ.get("RAY_memory_monitor_refresh_ms", "250")  # noqa: SIM112 - Ray's name

    milliseconds = ray.get(refresh_ms.remote(), timeout=9)
    if milliseconds == "0":
        return Finding(True, "Ray's memory monitor is off, so that only this host evicts workers")
    return Finding(
        False,
        "Ray's memory monitor is on: it kills workers that this host has not chosen; start the nodes with "
        "RAY_memory_monitor_refresh_ms=0",
    )
