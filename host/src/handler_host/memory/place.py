"""One machine with workers: its report, and the resources that this host's workers hold there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from handler_host.memory.ledger import Key, Ledger
from handler_host.memory.place_index import MEMORY

MAX_PLACE_BYTES = 2**50
"""A place that reports more memory than this is not believed."""


class PlaceReport(msgspec.Struct, frozen=True, array_like=True):
    """One machine as its launcher sees it."""

    name: str
    limit: int
    """Bytes that workers may use there, together with others."""
    external_usage: int = 0
    """Bytes of ``limit`` that others use or have reserved."""
    resources: dict[str, float] = {}
    """Resources besides memory, such as ``CPU`` and ``GPU``, in all."""
    external_resources: dict[str, float] = {}
    """The part of ``resources`` that others have reserved."""

    @property
    def flaw(self) -> str | None:
        """The error of the report; None if it is valid."""
        if not 0 < self.limit <= MAX_PLACE_BYTES:
            return f"it reports {self.limit} bytes of memory"
        if not 0 <= self.external_usage <= MAX_PLACE_BYTES:
            return f"it reports {self.external_usage} bytes in use by others"
        amounts = (*self.resources.values(), *self.external_resources.values())
        if not all(0 <= amount < float("inf") for amount in amounts):
            return "it reports a resource that is not a number of 0 or more"
        return None


class Place:
    """One machine with its ledger, and the resources that this host's workers hold there."""

    def __init__(self, report: PlaceReport, ledger: Ledger) -> None:
        self.name = report.name
        self.report = report
        self.ledger = ledger
        self.held: dict[Key, Mapping[str, float]] = {}
        self._in_use: dict[str, float] = {}

    @property
    def available(self) -> dict[str, float]:
        """What is available now: bytes of memory, and resources."""
        external = self.report.external_resources
        amounts: dict[str, float] = {
            name: total - external.get(name, 0.0) - self._in_use.get(name, 0.0)
            for name, total in self.report.resources.items()
        }
        amounts[MEMORY] = self.ledger.available
        return amounts

    @property
    def obtainable(self) -> dict[str, float]:
        """What is available once the workers that leave have exited, and all idle ones too."""
        return self.amounts_with({*self.ledger.leaving, *(eviction[:2] for eviction in self.ledger.evictable())})

    def amounts_with(self, workers: Iterable[Key]) -> dict[str, float]:
        """Return what is available once these workers have exited."""
        amounts = self.available
        for key in workers:
            amounts[MEMORY] += self.ledger.size_of(*key)
            for name, amount in self.held.get(key, {}).items():
                amounts[name] = amounts.get(name, 0.0) + amount
        return amounts

    def hold(self, key: Key, resources: Mapping[str, float]) -> None:
        """Note that a worker holds resources here."""
        self.held[key] = resources
        self._count(resources, 1)

    def free(self, key: Key) -> None:
        """Note that a worker holds nothing here any more."""
        self._count(self.held.pop(key, {}), -1)

    def _count(self, resources: Mapping[str, float], sign: int) -> None:
        for name, amount in resources.items():
            self._in_use[name] = self._in_use.get(name, 0.0) + sign * amount
