"""Tokens that providers have billed, by consumer, handler and model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

MAX_ROWS = 1000
"""Combinations of consumer, handler and model; models beyond count as :data:`OTHER`."""
MAX_MODEL = 100
"""Characters of a model's name."""
OTHER = "other"


class UsageRow(msgspec.Struct):
    """Tokens of one model for one consumer."""

    consumer: str
    """Empty for a host without keys, and for operators."""
    handler: str
    model: str
    """As the provider names it; empty if the handler does not report it."""
    input: int = 0
    """All input tokens, with those of the cache."""
    cached: int = 0
    """Input tokens read from the provider's cache."""
    cache_write: int = 0
    """Input tokens written to the provider's cache."""
    output: int = 0
    """All output tokens, with those of the reasoning."""
    reasoning: int = 0

    def by_kind(self) -> dict[str, int]:
        """Return the tokens by kind."""
        return {
            "input": self.input,
            "cached": self.cached,
            "cache_write": self.cache_write,
            "output": self.output,
            "reasoning": self.reasoning,
        }

    def add(self, tokens: Mapping[str, int]) -> None:
        """Add the tokens of a response, by kind."""
        self.input += tokens.get("input", 0)
        self.cached += tokens.get("cached", 0)
        self.cache_write += tokens.get("cache_write", 0)
        self.output += tokens.get("output", 0)
        self.reasoning += tokens.get("reasoning", 0)


def billed(tokens: Mapping[str, int]) -> int:
    """Return the tokens of a response that budgets count: input and output."""
    return tokens.get("input", 0) + tokens.get("output", 0)


class TokenUsage:
    """Tokens since :attr:`since`, which may be before the start of this process."""

    def __init__(self) -> None:
        self.since = time.time()
        """Seconds since 1970."""
        self.listeners: list[Callable[[UsageRow, Mapping[str, int]], None]] = []
        """Called with the row and the tokens of each response."""
        self._rows: dict[tuple[str, str, str], UsageRow] = {}

    def add(self, consumer: str, handler: str, model: str, tokens: Mapping[str, int]) -> None:
        """Add the tokens of a response, by kind."""
        row = self._row(consumer, handler, model[:MAX_MODEL])
        row.add(tokens)
        for listener in self.listeners:
            listener(row, tokens)

    def rows(self) -> list[UsageRow]:
        """Return all rows, ordered by consumer, handler and model."""
        return [self._rows[key] for key in sorted(self._rows)]

    def by_consumer(self) -> list[UsageRow]:
        """Return the sums of each consumer; handler and model are empty."""
        sums: dict[str, UsageRow] = {}
        for row in self.rows():
            sums.setdefault(row.consumer, UsageRow(row.consumer, "", "")).add(row.by_kind())
        return list(sums.values())

    def restore(self, since: float, rows: Iterable[UsageRow]) -> None:
        """Add the rows of an earlier process."""
        self.since = min(self.since, since)
        for row in rows:
            self._row(row.consumer, row.handler, row.model[:MAX_MODEL]).add(row.by_kind())

    def _row(self, consumer: str, handler: str, model: str) -> UsageRow:
        key = (consumer, handler, model)
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= MAX_ROWS and model != OTHER:
                return self._row(consumer, handler, OTHER)
            row = self._rows[key] = UsageRow(*key)
        return row
