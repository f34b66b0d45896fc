"""Tabs as CSV (RFC 4180), piece by piece."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from sheets.schema import Cell, Cells, Tab, as_text
from sheets.types import Csv

ROWS = 500
"""Of a piece."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What spreadsheet programs take for the beginning of a formula when they open CSV."""


def head(tab: Tab) -> Csv:
    """Return the line of the columns' names."""
    return Csv(_lines([list(tab.columns)]), 0)


def part(tab: Tab, rows: Sequence[Cells], escape: bool) -> Csv:
    """Return lines."""
    return Csv(_lines([_text(row.get(column, ""), escape) for column in tab.columns] for row in rows), len(rows))


def chunks(tab: Tab, rows: Sequence[Cells], escape: bool) -> Iterator[Csv]:
    """Return head and lines in pieces."""
    yield head(tab)
    for start in range(0, len(rows), ROWS):
        yield part(tab, rows[start : start + ROWS], escape)


def joined(parts: list[Csv]) -> Csv:
    """Make one answer of all pieces."""
    return Csv("".join(part.csv for part in parts), sum(part.rows for part in parts))


def _text(cell: Cell, escape: bool) -> str:
    text = as_text(cell)
    return f"'{text}" if escape and isinstance(cell, str) and text.startswith(FORMULA) else text


def _lines(rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()
