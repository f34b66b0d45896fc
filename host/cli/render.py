"""What people and programs read: text, tables, figures, JSON.

What comes from a handler or from another server is shown without its control
characters: it could command the terminal. Colours are for terminals only, and not
where ``NO_COLOR`` is set.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from host.cli.failure import Failure
from host.units import format_duration, format_size

GREEN, YELLOW, RED, FAINT = "32", "33", "31", "2"
COLOURS = {
    "active": GREEN,
    "idle": GREEN,
    "waiting": YELLOW,
    "activating": YELLOW,
    "draining": YELLOW,
    "cold": FAINT,
}
"""Of the states; all others are problems, and red."""


def put(text: str = "", end: str = "\n") -> None:
    """Print to standard output."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def note(text: str) -> None:
    """Print to standard error."""
    sys.stderr.write(f"{visible(text)}\n")


def put_json(value: Any) -> None:
    """Print JSON for programs; people can read it as well."""
    put(json.dumps(value, indent=2, ensure_ascii=False))


def put_json_line(value: Any) -> None:
    """Print JSON as one line: for commands with one answer for each of several handlers."""
    put(json.dumps(value, ensure_ascii=False))


def put_failure(failure: Failure, *, as_json: bool = False) -> None:
    """Print what went wrong; ``as_json``: the host's own words on standard output, too."""
    if as_json and failure.envelope is not None:
        put_json_line(failure.envelope)
    note(f"handler-host: {failure}")


def put_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[str]) -> None:
    """Print an aligned table; the columns of ``left`` stand to the left, figures to the right.

    A ``STATE`` is coloured. A terminal's width cuts the last column, a pipe cuts nothing.
    """
    shown = [[visible(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *shown, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for number, row in enumerate([columns, *shown]):
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        ]
        line = "  ".join(cells).rstrip()
        if room is not None and len(line) > room:
            line = line[: room - 1] + "…"
        if number and "STATE" in columns:
            cell = cells[columns.index("STATE")]
            line = line.replace(cell, _coloured(cell, COLOURS.get(cell.strip(), RED)), 1)
        put(line)


def put_fields(fields: Mapping[str, str]) -> None:
    """Print names and values, one a line; what has no value is left out."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value not in ("", "-"):
            put(f"{name.ljust(width)}  {visible(value)}")


def size(value: int | None) -> str:
    """Return a size, or a dash."""
    return "-" if value is None else format_size(value)


def duration(value: float | None) -> str:
    """Return a duration, or a dash."""
    return "-" if value is None else format_duration(value)


def visible(text: str) -> str:
    """Return ``text`` without the characters that command a terminal; lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _coloured(text: str, colour: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{colour}m{text}\033[0m"
