"""The three tabs: their columns, the values of cells, and the places of columns in a worksheet.

Columns are found by their names in the first row, so that people may move them and
add others. Cells are written ``RAW``: a text stays a text, whatever its first character.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handler_host.plugin import InvalidInput, did_you_mean, nearest

Cell = str | int | float | bool
Cells = dict[str, Cell]
"""Column name → cell of one row; an empty text is an empty cell."""

MAX_CELL = 50_000
"""Maximum characters of one cell (Google's limit)."""
MAX_CELLS = 10_000_000
"""Maximum cells of one spreadsheet, all worksheets together (Google's limit)."""
MAX_INTEGER = 2**53
"""Largest integer in a cell; Sheets stores numbers as doubles, so larger ones are written as text."""

USERS = ("user_id", "name", "status", "registered_at", "approved_at", "approved_by", "updated_at")
LOG = ("row_key", "at", "user_id", "event", "text", "data")
STATES = ("user_id", "name", "value", "updated_at")


@dataclass(frozen=True)
class Tab:
    """One of the three tabs."""

    name: str
    """``users``, ``log`` or ``states``."""
    title: str
    """Name of the worksheet."""
    columns: tuple[str, ...]
    key: tuple[str, ...]
    """Columns that identify a row."""

    def key_of(self, cells: Mapping[str, Any]) -> str:
        """Return the key of a row as one text."""
        return join_key(*(as_text(cells.get(column, "")) for column in self.key))


class Drift(Exception):
    """Missing or duplicate column in a worksheet's first row."""


@dataclass(frozen=True)
class Layout:
    """Places of a tab's columns in its worksheet."""

    tab: Tab
    places: Mapping[str, int]
    """Column name → its number, from 0."""
    first: int
    """The first column of the table."""

    @classmethod
    def of(cls, tab: Tab, header: Sequence[object]) -> Layout:
        """Find the columns in a first row; raises :class:`Drift`."""
        names = [as_text(cell).strip() for cell in header]
        places: dict[str, int] = {}
        for column in tab.columns:
            if column not in names:
                like = nearest(column, filter(None, names))
                hint = f" (found {like!r})" if like is not None else ""
                raise Drift(
                    f"worksheet {tab.title!r} has no column {column!r}{hint}; write the name into its first row "
                    "again. Rows wait until then, and none is lost"
                )
            if names.count(column) > 1:
                raise Drift(f"worksheet {tab.title!r} has two columns {column!r}; rename one of them")
            places[column] = names.index(column)
        return cls(tab, places, next(number for number, name in enumerate(names) if name))

    def row(self, cells: Mapping[str, Cell]) -> list[Cell | None]:
        """Return a row to append, from the table's first column on; None leaves a cell of an extra column empty."""
        row: list[Cell | None] = [None] * (max(self.places.values()) + 1)
        for column, place in self.places.items():
            row[place] = cells.get(column, "")
        return row[self.first :]

    def cells(self, row: Sequence[Cell]) -> Cells:
        """Return the cells of a row from the worksheet by column name."""
        return {column: row[place] if place < len(row) else "" for column, place in self.places.items()}


def make_tabs(titles: Mapping[str, str], extra: Mapping[str, Sequence[str]]) -> dict[str, Tab]:
    """Return the tabs by name, with the configured titles and extra columns."""
    return {
        name: Tab(name, titles[name], (*columns, *extra.get(name, ())), key)
        for name, columns, key in (
            ("users", USERS, ("user_id",)),
            ("log", LOG, ("row_key",)),
            ("states", STATES, ("user_id", "name")),
        )
    }


def join_key(*parts: str) -> str:
    """Return one text for a key of several columns."""
    return parts[0] if len(parts) == 1 else json.dumps(parts, ensure_ascii=False)


def as_text(cell: object) -> str:
    """Return a cell as text; a number that a person has typed becomes its text."""
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return "" if cell is None else str(cell)


def text_cell(param: str, value: str) -> str:
    """Return a text that fits into a cell; raises ``InvalidInput``."""
    # Google counts UTF-16 units; a character outside the basic plane is two of them.
    length = len(value) + sum(character > "\uffff" for character in value)
    if length > MAX_CELL:
        raise InvalidInput(
            f"{param}: {length} characters are too many (a cell holds {MAX_CELL}); shorten the text", param=param
        )
    if "\x00" in value:
        raise InvalidInput(f"{param}: NUL characters are not allowed in a cell", param=param)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{param}: half a surrogate pair is not valid text", param=param) from None
    return value


def extra_cells(tab: Tab, base: Sequence[str], fields: Mapping[str, Any], param: str) -> Cells:
    """Return the cells of extra columns; raises ``InvalidInput`` for a column that is not configured."""
    known = tab.columns[len(base) :]
    for name in fields:
        if name not in known:
            hint = did_you_mean(name, known)
            has = f"it has {', '.join(known)}" if known else "it has no extra columns"
            raise InvalidInput(
                f"{param}.{name}: {tab.name} has no such column{hint or f': {has} ({tab.name}_columns)'}",
                param=f"{param}.{name}",
            )
    return {name: value_cell(f"{param}.{name}", value) for name, value in fields.items()}


def value_cell(param: str, value: Any) -> Cell:
    """Return the cell for any JSON value; :func:`value_of` returns the value of the cell."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_INTEGER else text_cell(param, str(value))
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str) and not _reads_as_json(value):
        return text_cell(param, value)
    return text_cell(param, json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def value_of(cell: Cell) -> Any:
    """Return the JSON value of a cell, even if a person has edited it."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) <= MAX_INTEGER:
        return int(cell)
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return cell


def column_name(number: int) -> str:
    """Return the letters of a column: 0 is A, 26 is AA."""
    name, number = "", number + 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(65 + rest) + name
    return name


def quoted(title: str) -> str:
    """Return a worksheet's name as the first part of a range in A1 notation."""
    return "'" + title.replace("'", "''") + "'"


def _reads_as_json(text: str) -> bool:
    # An empty text stays an empty cell.
    return value_of(text) is not text and bool(text)


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def check_columns(tab: str, base: Sequence[str], extra: Iterable[str]) -> tuple[str, ...]:
    """Return the configured extra columns; raises ``ValueError`` for an invalid or duplicate name."""
    seen = list(base)
    for name in extra:
        if not name.strip() or name != name.strip() or name in seen:
            raise ValueError(f"{tab}_columns: {name!r} is empty, has blanks around it, or exists already")
        seen.append(name)
    return tuple(seen[len(base) :])
