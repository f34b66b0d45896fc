"""The operations of each handler: those of its manifest, until a worker has reported its own."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import msgspec

from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.lifecycle.reports import OperationReport

if TYPE_CHECKING:
    from handler_host.workers.worker import Worker

MAX_SCHEMA_LEVELS = 100
"""Deepest schema of an operation that is kept: recursive code must not end at one of a hostile plugin."""


def limit_schema(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a schema of a worker, or None if it is nested too deeply: then any JSON counts as valid."""
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_LEVELS):
        containers = [value for value in level if isinstance(value, dict | list)]
        if not containers:
            return schema
        level = [item for value in containers for item in (value.values() if isinstance(value, dict) else value)]
    return None


class OperationRegistry:
    """Operations by handler. A worker's report, which has schemas, takes precedence over the manifest."""

    def __init__(self) -> None:
        self._reported: dict[str, dict[str, OperationReport]] = {}

    def learn(self, worker: Worker) -> None:
        """Keep the operations that a worker has reported on becoming ready."""
        if worker.ready is not None:
            self._reported[worker.handler] = {
                operation.name: OperationReport(
                    name=operation.name,
                    summary=operation.summary,
                    streams=operation.streams,
                    input_schema=limit_schema(operation.input_schema),
                    output_schema=limit_schema(operation.output_schema),
                )
                for operation in worker.ready.operations
            }

    def forget(self, name: str) -> None:
        """Forget the reported operations of a handler: another version is installed."""
        self._reported.pop(name, None)

    def reports(self, entry: CatalogEntry) -> list[OperationReport] | None:
        """Return the operations of a handler, or None if they are not known yet."""
        declared = (entry.manifest.operations if entry.manifest is not None else None) or {}
        if entry.name in self._reported:
            return [
                # A summary may be in the manifest only.
                report
                if report.summary or report.name not in declared
                else msgspec.structs.replace(report, summary=declared[report.name].summary)
                for report in self._reported[entry.name].values()
            ]
        if entry.manifest is None or entry.manifest.operations is None:
            return None
        return [
            OperationReport(name=name, summary=operation.summary)
            for name, operation in entry.manifest.operations.items()
        ]

    def names(self, entry: CatalogEntry) -> Collection[str] | None:
        """Return the names of a handler's operations, or None if they are not known yet."""
        if entry.name in self._reported:
            return self._reported[entry.name]
        return entry.manifest.operations if entry.manifest is not None else None
