"""The three tabs in SQLite: the workbook itself if it is local, or the copy for reads if it is at Google.

Each method works in one transaction of the store, on its connection, and changes the
rows and the outbox together: acknowledged changes are stored, and stored changes are sent.
"""

from __future__ import annotations

import json
import math
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from handler_host.plugin import InvalidInput
from sheets import outbox
from sheets.schema import Cell, Cells, Tab, as_text, join_key, value_cell, value_of

KEYED = ("users", "states")
"""Tabs whose rows change; the log only grows."""


class Workbook:
    """Rows of the three tabs; with ``remote`` each change goes to the outbox, too."""

    def __init__(self, tabs: Mapping[str, Tab], remote: bool = False) -> None:
        self.tabs = tabs
        self.remote = remote
        # Unique among all workers that ever write into one spreadsheet.
        self._origin = secrets.token_hex(5)
        self._number = 0

    def register(self, connection: sqlite3.Connection, cells: Cells) -> tuple[Cells, bool]:
        """Add a user; return the row, and whether it is new."""
        before = self.get(connection, "users", str(cells["user_id"]))
        if before is not None:
            return before, False
        at = timestamp()
        return self._put(connection, "users", None, {**cells, "registered_at": at, "updated_at": at}), True

    def change_user(
        self, connection: sqlite3.Connection, user_id: str, change: Callable[[Cells], Cells]
    ) -> Cells | None:
        """Apply the cells that ``change`` returns for a row; return the new row, or None if the user is unknown."""
        before = self.get(connection, "users", user_id)
        if before is None:
            return None
        changed = {name: cell for name, cell in change(before).items() if before.get(name, "") != cell}
        if not changed:
            return before
        return self._put(connection, "users", before, {**changed, "updated_at": timestamp()})

    def users(
        self, connection: sqlite3.Connection, status: str | None, offset: int, limit: int
    ) -> tuple[list[Cells], int]:
        """Return a page of the users in the order of their rows, and how many there are in all."""
        where, arguments = ("WHERE json_extract(cells, '$.status') = ?", [status]) if status is not None else ("", [])
        (total,) = connection.execute(f"SELECT count(*) FROM users {where}", arguments).fetchone()  # noqa: S608
        rows = connection.execute(
            f"SELECT cells FROM users {where} ORDER BY position LIMIT ? OFFSET ?",  # noqa: S608 - no caller's text
            [*arguments, limit, offset],
        )
        return [json.loads(cells) for (cells,) in rows], total

    def set_state(self, connection: sqlite3.Connection, user_id: str, name: str, value: Any) -> Cells:
        """Set a state; return its row."""
        before = self.get(connection, "states", join_key(user_id, name))
        cells = {"user_id": user_id, "name": name, "value": value_cell("value", value), "updated_at": timestamp()}
        return self._put(connection, "states", before, cells)

    def increment(self, connection: sqlite3.Connection, user_id: str, name: str, by: int | float) -> Any:
        """Add to a numeric or missing state, and return the sum."""
        before = self.get(connection, "states", join_key(user_id, name))
        value = 0 if before is None or before["value"] == "" else value_of(before["value"])
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInput(f"name: {name!r} is {type(value).__name__}, not a number; states.set it", param="name")
        total = value + by
        if isinstance(total, float) and not math.isfinite(total):
            raise InvalidInput("by: the sum is too large for a cell", param="by")
        self.set_state(connection, user_id, name, total)
        return total

    def delete_state(self, connection: sqlite3.Connection, user_id: str, name: str) -> bool:
        """Delete a state; return whether it existed."""
        key = join_key(user_id, name)
        if not connection.execute("DELETE FROM states WHERE key = ?", (key,)).rowcount:
            return False
        if self.remote:
            outbox.delete(connection, "states", key)
        return True

    def append(self, connection: sqlite3.Connection, rows: Iterable[Cells]) -> list[str]:
        """Add rows to the log; return their keys."""
        keys = []
        for row in rows:
            key = self._new_key()
            cells: Cells = {**row, "row_key": key}
            if self.remote:
                outbox.append(connection, key, cells)
            else:
                self._insert_log(connection, key, cells)
            keys.append(key)
        return keys

    def tail(self, connection: sqlite3.Connection, user_id: str | None, limit: int) -> list[Cells]:
        """Return the newest rows of the local log, oldest first."""
        where, arguments = ("WHERE user_id = ?", [user_id]) if user_id is not None else ("", [])
        rows = connection.execute(
            f"SELECT cells FROM log {where} ORDER BY position DESC LIMIT ?",  # noqa: S608 - no caller's text
            [*arguments, limit],
        )
        return [json.loads(cells) for (cells,) in rows][::-1]

    def get(self, connection: sqlite3.Connection, tab: str, key: str) -> Cells | None:
        """Return a row, or None."""
        row = connection.execute(f"SELECT cells FROM {tab} WHERE key = ?", (key,)).fetchone()  # noqa: S608 - our name
        return json.loads(row[0]) if row is not None else None

    def page(self, connection: sqlite3.Connection, tab: str, after: int, limit: int) -> list[tuple[int, Cells]]:
        """Return the rows of a tab after a position, each with its own position."""
        rows = connection.execute(
            f"SELECT position, cells FROM {tab} WHERE position > ? ORDER BY position LIMIT ?",  # noqa: S608 - our name
            (after, limit),
        )
        return [(position, json.loads(cells)) for position, cells in rows]

    def count(self, connection: sqlite3.Connection) -> dict[str, int]:
        """Return the number of rows of each tab in this file."""
        return {
            tab: connection.execute(f"SELECT count(*) FROM {tab}").fetchone()[0]  # noqa: S608 - our name
            for tab in self.tabs
        }

    def replace(self, connection: sqlite3.Connection, tab: str, rows: Sequence[Cells]) -> list[str]:
        """Replace a tab by the rows at Google, except for rows with pending changes; return duplicate keys.

        The first row of a duplicate key counts.
        """
        keep = outbox.pending_keys(connection, tab)
        stored = {
            key: (position, cells)
            for position, key, cells in connection.execute(f"SELECT position, key, cells FROM {tab}")  # noqa: S608
        }
        new: dict[str, str] = {}
        duplicates = []
        for cells in rows:
            key = self.tabs[tab].key_of(cells)
            if key in new:
                duplicates.append(key)
            elif key not in keep:
                new[key] = json.dumps(self._tidy(tab, cells), ensure_ascii=False)
        removed = [(key,) for key in stored if key not in new and key not in keep]
        connection.executemany(f"DELETE FROM {tab} WHERE key = ?", removed)  # noqa: S608 - our name
        upsert = (
            f"INSERT INTO {tab} (key, cells) VALUES (?, ?) "  # noqa: S608 - our name
            "ON CONFLICT (key) DO UPDATE SET cells = excluded.cells"
        )
        connection.executemany(
            upsert, [(key, cells) for key, cells in new.items() if key not in stored or stored[key][1] != cells]
        )
        return duplicates

    def move(self, connection: sqlite3.Connection) -> int:
        """Put all rows of the local workbook into the outbox, and return their number."""
        count = 0
        for tab in KEYED:
            for _, cells in self._all(connection, tab):
                outbox.put(connection, tab, self.tabs[tab].key_of(cells), cells)
                count += 1
        for _, cells in self._all(connection, "log"):
            outbox.append(connection, str(cells["row_key"]), cells)
            count += 1
        connection.execute("DELETE FROM log")
        return count

    def _all(self, connection: sqlite3.Connection, tab: str) -> Iterator[tuple[int, Cells]]:
        after = 0
        while page := self.page(connection, tab, after, 1000):
            yield from page
            after = page[-1][0]

    def _put(self, connection: sqlite3.Connection, tab: str, before: Cells | None, changes: Cells) -> Cells:
        whole: dict[str, Cell] = {**dict.fromkeys(self.tabs[tab].columns, ""), **(before or {}), **changes}
        key = self.tabs[tab].key_of(whole)
        connection.execute(
            f"INSERT INTO {tab} (key, cells) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET cells = excluded.cells",  # noqa: S608 - our name
            (key, json.dumps(whole, ensure_ascii=False)),
        )
        if self.remote:
            # Only the changed cells of an existing row, so that people's edits of other cells stay.
            outbox.put(connection, tab, key, whole if before is None else changes)
        return whole

    def _insert_log(self, connection: sqlite3.Connection, key: str, cells: Cells) -> None:
        connection.execute(
            "INSERT INTO log (key, user_id, cells) VALUES (?, ?, ?)",
            (key, str(cells["user_id"]), json.dumps(cells, ensure_ascii=False)),
        )

    def _tidy(self, tab: str, cells: Cells) -> Cells:
        """Return a row whose key columns are texts, even if a person has typed a number."""
        return {**cells, **{column: as_text(cells[column]) for column in self.tabs[tab].key}}

    def _new_key(self) -> str:
        self._number += 1
        return f"{time.time_ns() // 1_000_000:011x}-{self._origin}-{self._number:06x}"


def timestamp() -> str:
    """Return the current time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def meta(connection: sqlite3.Connection, name: str) -> str | None:
    """Return the value of a name in the file's metadata, or None."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return row[0] if row is not None else None


def note(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Set a value in the file's metadata."""
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))
