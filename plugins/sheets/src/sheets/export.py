"""Tabs as CSV (RFC 4180), in parts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from sheets.schema import Cell, Cells, Tab, as_text
from sheets.types import Csv

ROWS = 500
"""Rows of one part."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that spreadsheet programs read as a formula when they open CSV."""


def head(tab: Tab) -> Csv:
    """Return the line of column names."""
    return Csv(_lines([list(tab.columns)]), 0)


def part(tab: Tab, rows: Sequence[Cells], escape: bool) -> Csv:
    """Return the lines of ``rows``."""
    return Csv(_lines([_text(row.get(column, ""), escape) for column in tab.columns] for row in rows), len(rows))


def chunks(tab: Tab, rows: Sequence[Cells], escape: bool) -> Iterator[Csv]:
    """Yield the head, then the lines in parts."""
    yield head(tab)
    for start in range(0, len(rows), ROWS):
        yield part(tab, rows[start : start + ROWS], escape)


def joined(parts: list[Csv]) -> Csv:
    """Return all parts as one response."""
    return Csv("".join(part.csv for part in parts), sum(part.rows for part in parts))


def _text(cell: Cell, escape: bool) -> str:
    text = as_text(cell)
    return f"'{text}" if escape and isinstance(cell, str) and text.startswith(FORMULA) else text


def _lines(rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()
