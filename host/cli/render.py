"""Tables and figures for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from host.units import format_duration, format_size


def put(text: str = "", end: str = "\n") -> None:
    """Print to standard output."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def put_json(value: Any) -> None:
    """Print JSON for programs."""
    put(json.dumps(value, indent=2))


def put_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print an aligned table; ``right`` are the columns that stand to the right."""
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]
    for row in [columns, *rows]:
        cells = (
            text.rjust(width) if index in right else text.ljust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        put("  ".join(cells).rstrip())


def size(value: int | None) -> str:
    """Return a size, or a dash."""
    return "-" if value is None else format_size(value)


def duration(value: float | None) -> str:
    """Return a duration, or a dash."""
    return "-" if value is None else format_duration(value)
