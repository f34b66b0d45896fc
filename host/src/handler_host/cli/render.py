"""Output for people and programs: text, tables, sizes and durations, JSON.

Text from handlers and servers is printed to a terminal without control characters, which
could change the terminal's state. Only a terminal gets colours, and only if ``NO_COLOR``
(https://no-color.org) is not set.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handler_host._internal.standard_streams import discard_output
from handler_host._internal.units import format_duration, format_size
from handler_host.cli.failure import REFUSED, Failure

GREEN, YELLOW, RED, FAINT = "32", "33", "31", "2"
STATE_COLOURS = {
    "active": GREEN,
    "idle": GREEN,
    "waiting": YELLOW,
    "activating": YELLOW,
    "draining": YELLOW,
    "cold": FAINT,
}
"""ANSI colour of each state; all other states are problems and red."""


def echo(text: str = "", end: str = "\n") -> None:
    """Print to standard output; a terminal gets the text without control characters."""
    _write((sanitize(text) if sys.stdout.isatty() else text) + end)


def note(text: str) -> None:
    """Print a line to standard error."""
    sys.stderr.write(f"{sanitize(text)}\n")


def echo_json(value: Any) -> None:
    """Print JSON, indented."""
    echo(json.dumps(value, indent=2, ensure_ascii=False))


def echo_json_line(value: Any) -> None:
    """Print JSON in one line: for commands that print one document for each of several handlers."""
    echo(json.dumps(value, ensure_ascii=False))


def echo_failure(failure: Failure, *, as_json: bool = False) -> None:
    """Print a failure to standard error; ``as_json``: also the host's error response to standard output."""
    if as_json and failure.envelope is not None:
        echo_json_line(failure.envelope)
    note(f"handler-host: {failure}")


def echo_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[str]) -> None:
    """Print an aligned table; the columns in ``left`` are aligned to the left, the others to the right.

    The cells of a column ``STATE`` are coloured. Lines are cut to the width of the terminal,
    but not in a pipe.
    """
    cells = [[sanitize(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    line_width = _terminal_width()
    state_column = columns.index("STATE") if "STATE" in columns else None
    for row in [columns, *cells]:
        line = "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        ).rstrip()
        if len(line) > line_width:
            line = line[: line_width - 1] + "…"
        if state_column is not None and row is not columns:
            start = sum(widths[:state_column]) + 2 * state_column
            end = start + len(row[state_column])
            line = line[:start] + _coloured(line[start:end], STATE_COLOURS.get(row[state_column], RED)) + line[end:]
        _write(f"{line}\n")


def echo_fields(fields: Mapping[str, str]) -> None:
    """Print names and values, one in a line; fields without a value are left out."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value not in ("", "-"):
            echo(f"{name.ljust(width)}  {sanitize(value)}")


def show_size(size: int | None) -> str:
    """Return a size in bytes as text, or a dash for None."""
    return "-" if size is None else format_size(size)


def show_duration(seconds: float | None) -> str:
    """Return a duration in seconds as text, or a dash for None."""
    return "-" if seconds is None else format_duration(seconds)


def sanitize(text: str) -> str:
    """Return ``text`` with control characters replaced, except for tabs and line ends.

    Of those for the direction of text, which languages need, only the two that force it are replaced.
    """
    return text if text.isprintable() else text.translate(_REPLACEMENTS)


_REPLACEMENTS = dict.fromkeys(
    {*range(0x20), *range(0x7F, 0xA0), 0x202D, 0x202E} - {ord("\t"), ord("\n")}, "\N{REPLACEMENT CHARACTER}"
)


def _terminal_width() -> int:
    if not sys.stdout.isatty():
        return sys.maxsize
    import shutil  # imports the compression modules: only for terminals

    return shutil.get_terminal_size().columns


def _coloured(text: str, colour: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{colour}m{text}\033[0m"


def _write(text: str) -> None:
    try:
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:
            # Half an emoji at the end of a chunk, or an output that can only encode ASCII.
            encoding = sys.stdout.encoding
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # the reader has seen enough: no error
    except OSError as error:
        discard_output()
        raise Failure(f"standard output: {error.strerror}", REFUSED) from error
