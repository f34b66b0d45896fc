"""What a running host knows that its files do not show: its secrets, and learned memory footprints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.cli.client import URL_VARIABLE, Client
from handler_host.cli.failure import Failure
from handler_host.cli.findings import Finding, Level


class RemoteHost(NamedTuple):
    """Status and memory report of a running host, by handler."""

    url: str
    statuses: Mapping[str, Mapping[str, Any]]
    memory: Mapping[str, Mapping[str, Any]]

    def has(self, entry: CatalogEntry) -> bool:
        """Return whether the host has this version of the handler."""
        status = self.statuses.get(entry.name, {})
        return (status.get("distribution"), status.get("version")) == (entry.distribution, entry.version)

    def footprint(self, entry: CatalogEntry) -> tuple[int, float | None] | None:
        """Return the learned peak in bytes and the activation time in seconds, or None if nothing is learned."""
        report = self.memory.get(entry.name) if self.has(entry) else None
        return (report["learned_peak"], report["activate_seconds"]) if report and report["learned_peak"] else None

    def without_local_problem(self, entry: CatalogEntry) -> CatalogEntry:
        """Return the entry without a missing-secret problem if the host has the secret."""
        lacks_secret = entry.problem is not None and entry.problem.state == "missing-secret"
        if lacks_secret and self.has(entry) and self.statuses[entry.name]["state"] != "missing-secret":
            return msgspec.structs.replace(entry, problem=None)
        return entry


def query_remote_host(url: str | None, token_file: str | None) -> tuple[RemoteHost | None, Finding]:
    """Query the host at ``url`` or ``HANDLER_HOST_URL``; return its reports, and a finding about the query."""
    place = "running host"
    if not (url or os.environ.get(URL_VARIABLE)):
        return None, Finding(Level.NOTE, place, f"not queried; set --url or {URL_VARIABLE} to include one")
    try:
        client = Client(url, token_file=token_file)
        statuses = client.call_admin("GET", "handlers")["handlers"]
        memory = client.call_admin("GET", "memory")["handlers"]
    except Failure as failure:
        return None, Finding(Level.WARNING, place, f"not queried: {failure}")
    text = f"{client.url}: its learned memory and its secrets are taken into account"
    return RemoteHost(client.url, {status["name"]: status for status in statuses}, memory), Finding(
        Level.OK, place, text
    )
