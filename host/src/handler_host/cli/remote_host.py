"""What a running host knows of its handlers that a look from outside does not: its secrets, what it has learned."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec

from handler_host.catalog.catalog import CatalogEntry
from handler_host.cli.client import Client
from handler_host.cli.diagnosis import Finding
from handler_host.cli.failure import Failure


class RunningHost(NamedTuple):
    """The answers of one host, by handler."""

    url: str
    statuses: Mapping[str, Mapping[str, Any]]
    memory: Mapping[str, Mapping[str, Any]]

    def has(self, entry: CatalogEntry) -> bool:
        """Tell whether it has this version of the handler."""
        status = self.statuses.get(entry.name, {})
        return (status.get("distribution"), status.get("version")) == (entry.distribution, entry.version)

    def learned(self, entry: CatalogEntry) -> tuple[int, float | None] | None:
        """Return the most that the handler took, in bytes, and the seconds that its activation does."""
        known = self.memory.get(entry.name) if self.has(entry) else None
        return (known["learned_peak"], known["activate_seconds"]) if known and known["learned_peak"] else None

    def judged(self, entry: CatalogEntry) -> CatalogEntry:
        """Return the entry without the want of a secret that only this shell lacks."""
        lacks = entry.problem is not None and entry.problem.state == "missing-secret"
        if lacks and self.has(entry) and self.statuses[entry.name]["state"] != "missing-secret":
            return msgspec.structs.replace(entry, problem=None)
        return entry


def ask(arguments: SimpleNamespace) -> tuple[RunningHost | None, Finding]:
    """Ask the host of ``--url`` or ``HANDLER_HOST_URL``; return what it knows, and whom doctor has asked."""
    if not (arguments.url or os.environ.get("HANDLER_HOST_URL")):
        return None, Finding("note", "running host", "none is asked: name one by --url or HANDLER_HOST_URL")
    try:
        client = Client(arguments)
        statuses = client.admin("GET", "handlers")["handlers"]
        memory = client.admin("GET", "memory")["handlers"]
    except Failure as failure:
        return None, Finding("warning", "running host", f"not asked, {failure}")
    text = f"{client.url} is asked for what it has learned, and whether it has the secrets that this shell lacks"
    return RunningHost(client.url, {one["name"]: one for one in statuses}, memory), Finding("ok", "running host", text)
