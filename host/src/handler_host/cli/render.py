"""What people and programs read: text, tables, figures, JSON.

What comes from a handler or from another server is shown without its control
characters: it could command the terminal. Colours are for terminals only, and not
where ``NO_COLOR`` is set.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handler_host._internal.units import format_duration, format_size
from handler_host.cli.failure import Failure

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


def echo(text: str = "", end: str = "\n") -> None:
    """Print to standard output: as it is to a pipe, harmless to a terminal."""
    _write((visible(text) if sys.stdout.isatty() else text) + end)


def note(text: str) -> None:
    """Print to standard error."""
    sys.stderr.write(f"{visible(text)}\n")


def put_json(value: Any) -> None:
    """Print JSON for programs; people can read it as well."""
    echo(json.dumps(value, indent=2, ensure_ascii=False))


def put_json_line(value: Any) -> None:
    """Print JSON as one line: for commands with one answer for each of several handlers."""
    echo(json.dumps(value, ensure_ascii=False))


def put_failure(failure: Failure, *, as_json: bool = False) -> None:
    """Print what went wrong; ``as_json``: the host's own words on standard output, too."""
    if as_json and failure.envelope is not None:
        put_json_line(failure.envelope)
    note(f"handler-host: {failure}")


def put_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[str]) -> None:
    """Print an aligned table; the columns of ``left`` stand to the left, figures to the right.

    A ``STATE`` is coloured. A terminal cuts what is wider than itself, a pipe cuts nothing.
    """
    shown = [[visible(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *shown, strict=True)]
    room = _room()
    place = columns.index("STATE") if "STATE" in columns else None
    for row in [columns, *shown]:
        line = "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        ).rstrip()
        if len(line) > room:
            line = line[: room - 1] + "…"
        if place is not None and row is not columns:
            start = sum(widths[:place]) + 2 * place
            end = start + len(row[place])
            line = line[:start] + _coloured(line[start:end], COLOURS.get(row[place], RED)) + line[end:]
        _write(f"{line}\n")


def put_fields(fields: Mapping[str, str]) -> None:
    """Print names and values, one a line; what has no value is left out."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value not in ("", "-"):
            echo(f"{name.ljust(width)}  {visible(value)}")


def size(value: int | None) -> str:
    """Return a size, or a dash."""
    return "-" if value is None else format_size(value)


def duration(value: float | None) -> str:
    """Return a duration, or a dash."""
    return "-" if value is None else format_duration(value)


def visible(text: str) -> str:
    """Return ``text`` without the characters that command a terminal; lines and tabs stay."""
    return text if text.isprintable() else text.translate(_HARMLESS)


_HARMLESS = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {ord("\t"), ord("\n")}, "\N{REPLACEMENT CHARACTER}")


def _room() -> int:
    """Return the width of the terminal; a pipe has all that is needed."""
    if not sys.stdout.isatty():
        return sys.maxsize
    import shutil  # for terminals only: it brings the compression modules along

    return shutil.get_terminal_size().columns


def _coloured(text: str, colour: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{colour}m{text}\033[0m"


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        # Half an emoji at the end of a piece, or a terminal that knows no more than ASCII.
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
