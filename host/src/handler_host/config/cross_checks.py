"""Checks of configuration keys that limit each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from handler_host._internal.units import format_duration, format_size
from handler_host.config.launchers import isolation_flaw
from handler_host.config.listen import Address, parse_listen
from handler_host.config.types import ServerConfig
from handler_host.config.values import show
from handler_host.config.workers import WorkersConfig


def check_together(
    values: Mapping[str, Mapping[str, Any]],
    handlers: Mapping[str, Mapping[str, Any]],
    launchers: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, str]]:
    """Yield the problems of the sections, the handlers and the launchers, each after the key to correct."""
    yield from _check_heartbeat(values["workers"])
    yield from _check_addresses(values, launchers)
    policies = {"defaults": values["defaults"], **{f"handlers.{name}": keys for name, keys in handlers.items()}}
    yield from _check_isolation(policies, launchers)
    yield from _check_numbers_of_workers(policies)
    limit, headroom = values["memory"].get("limit"), values["memory"].get("headroom")
    if limit is not None and isinstance(headroom, int) and headroom >= limit:
        yield (
            "memory.headroom",
            f"memory.headroom is {format_size(headroom)}: must be less than memory.limit ({format_size(limit)})",
        )


def _check_heartbeat(keys: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    workers = WorkersConfig(**keys)
    interval, timeout = workers.heartbeat_interval, workers.hang_after
    if timeout < 2 * interval:
        key = "workers.hang_after" if "hang_after" in keys else "workers.heartbeat_interval"
        yield (
            key,
            (
                f"workers.hang_after is {format_duration(timeout)}: must be at least twice "
                f"workers.heartbeat_interval ({format_duration(interval)}), or every worker counts as hung"
            ),
        )


def _check_addresses(
    values: Mapping[str, Mapping[str, Any]],
    launchers: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, str]]:
    addresses = [("server.listen", listen) for listen in values["server"].get("listen", ())]
    if admin_listen := values["admin"].get("listen"):
        addresses.append(("admin.listen", admin_listen))
    addresses += [(f"launchers.{name}.listen", keys["listen"]) for name, keys in launchers.items() if "listen" in keys]
    server = ServerConfig(**values["server"])
    taken = {Address(server.host, server.port): "server.port"}
    for key, listen in addresses:
        try:
            address = parse_listen(listen)
        except ValueError as error:
            yield key, f"{key} = {show(listen)}: {error}"
            continue
        if address in taken and (address.port or address.path):  # each port 0 is another one
            yield key, f"{key} = {show(listen)}: must be another address than that of {taken[address]}"
        taken[address] = key


def _check_isolation(
    policies: Mapping[str, Mapping[str, Any]],
    launchers: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, str]]:
    for table, keys in policies.items():
        if "isolation" in keys and (flaw := isolation_flaw(keys["isolation"], launchers)):
            key = f"{table}.isolation"
            yield key, f"{key} = {show(keys['isolation'])}: {flaw}"


def _check_numbers_of_workers(policies: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    default_most = policies["defaults"].get("max_workers", 1)
    for table, keys in policies.items():
        least, most = keys.get("min_workers", 0), keys.get("max_workers", default_most)
        if least > most:
            yield (
                f"{table}.min_workers",
                f"{table}.min_workers = {least}: must be at most max_workers ({most}); raise max_workers",
            )
