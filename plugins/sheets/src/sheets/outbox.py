"""Acknowledged changes that are not in the spreadsheet yet: functions on the store's connection.

An entry is a row to append, a change of a row, or its deletion. ``sent_at`` is its state:

- None: never sent, or refused without effect;
- a time: sent then, and the response is missing;
- 0: the response is an error that leaves open whether it took effect;
- -1: in a batch that is being built, which no later change may join.

A sent entry is looked up by its key before it is sent again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sheets.schema import Cells

Kind = Literal["append", "put", "delete"]
ANSWERED = 0.0
"""``sent_at`` of an entry with an error response: any effect is visible at once."""
TAKEN = -1.0
"""``sent_at`` of an entry in a batch that is not sent yet."""
_CHANGED = "tab IN ('users', 'states')"
"""Tabs by name, so that SQLite uses the index: the log may have many rows."""


@dataclass(frozen=True)
class Entry:
    """One entry of the outbox."""

    seq: int
    tab: str
    key: str
    kind: Kind
    cells: Cells
    """The row of an append, or the changed cells of a put."""
    sent_at: float | None

    @property
    def doubtful(self) -> bool:
        """Whether it may be in the spreadsheet already."""
        return self.sent_at is not None and self.sent_at != TAKEN


@dataclass(frozen=True)
class Change:
    """All entries of one row, merged."""

    tab: str
    key: str
    kind: Kind
    cells: Cells
    seqs: tuple[int, ...]


def append(connection: sqlite3.Connection, key: str, cells: Cells) -> None:
    """Add a row of the log."""
    _insert(connection, "log", key, "append", cells)


def put(connection: sqlite3.Connection, tab: str, key: str, cells: Cells) -> None:
    """Add a change of a row, or merge it into an entry that is not sent yet."""
    waiting = _waiting(connection, tab, key)
    if waiting is None:
        _insert(connection, tab, key, "put", cells)
        return
    # After a deletion the cells are a whole row.
    merged = {**waiting.cells, **cells} if waiting.kind == "put" else cells
    connection.execute("UPDATE outbox SET kind = 'put', cells = ? WHERE seq = ?", (_dump(merged), waiting.seq))


def delete(connection: sqlite3.Connection, tab: str, key: str) -> None:
    """Add the deletion of a row."""
    waiting = _waiting(connection, tab, key)
    if waiting is None:
        _insert(connection, tab, key, "delete", {})
    else:
        connection.execute("UPDATE outbox SET kind = 'delete', cells = '{}' WHERE seq = ?", (waiting.seq,))


def batch(connection: sqlite3.Connection, rows: int, size: int) -> list[Entry]:
    """Return the oldest entries: up to ``rows`` and ``size`` bytes of the log, and up to ``rows`` changes."""
    log: list[Entry] = []
    log_bytes = 0
    for entry in _select(connection, "tab = 'log' ORDER BY seq LIMIT ?", rows):
        log_bytes += len(_dump(entry.cells).encode())
        if log and log_bytes > size:
            break
        log.append(entry)
    changes = _select(connection, f"{_CHANGED} ORDER BY seq LIMIT ?", rows)
    mark(connection, [entry.seq for entry in changes if entry.sent_at is None], TAKEN)
    return [*log, *changes]


def put_back(connection: sqlite3.Connection) -> None:
    """Undo the marks of :func:`batch` on entries that were not sent."""
    connection.execute(f"UPDATE outbox SET sent_at = NULL WHERE {_CHANGED} AND sent_at = ?", (TAKEN,))  # noqa: S608


def collapse(entries: Iterable[Entry]) -> list[Change]:
    """Merge the entries of each row into one change, in the order of the first entries."""
    changes: dict[tuple[str, str], Change] = {}
    for entry in entries:
        before = changes.get((entry.tab, entry.key))
        merge = before is not None and before.kind == entry.kind == "put"
        changes[entry.tab, entry.key] = Change(
            entry.tab,
            entry.key,
            entry.kind,
            {**before.cells, **entry.cells} if before is not None and merge else entry.cells,
            (*(before.seqs if before is not None else ()), entry.seq),
        )
    return list(changes.values())


def mark(connection: sqlite3.Connection, seqs: Iterable[int], sent_at: float | None) -> None:
    """Set ``sent_at`` of the entries: a time, None, or one of the constants."""
    connection.executemany("UPDATE outbox SET sent_at = ? WHERE seq = ?", [(sent_at, seq) for seq in seqs])


def done(connection: sqlite3.Connection, seqs: Iterable[int]) -> None:
    """Remove entries that are in the spreadsheet."""
    connection.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in seqs])


def pending_keys(connection: sqlite3.Connection, tab: str) -> set[str]:
    """Return the keys of the rows of a tab that have entries."""
    return {key for (key,) in connection.execute("SELECT DISTINCT key FROM outbox WHERE tab = ?", (tab,))}


def newest_rows(connection: sqlite3.Connection, limit: int) -> list[Cells]:
    """Return the newest pending rows of the log, oldest first."""
    return [entry.cells for entry in _select(connection, "tab = 'log' ORDER BY seq DESC LIMIT ?", limit)][::-1]


def _waiting(connection: sqlite3.Connection, tab: str, key: str) -> Entry | None:
    """Return the newest entry of a row if it was never sent; a sent entry must not change."""
    newest = _select(connection, "tab = ? AND key = ? ORDER BY seq DESC LIMIT 1", tab, key)
    return newest[0] if newest and newest[0].sent_at is None else None


def _select(connection: sqlite3.Connection, where: str, *arguments: object) -> list[Entry]:
    query = f"SELECT seq, tab, key, kind, cells, sent_at FROM outbox WHERE {where}"  # noqa: S608 - no caller's text
    return [
        Entry(seq, tab, key, kind, json.loads(cells), sent_at)
        for seq, tab, key, kind, cells, sent_at in connection.execute(query, arguments)
    ]


def _insert(connection: sqlite3.Connection, tab: str, key: str, kind: Kind, cells: Cells) -> None:
    connection.execute("INSERT INTO outbox (tab, key, kind, cells) VALUES (?, ?, ?, ?)", (tab, key, kind, _dump(cells)))


def _dump(cells: Cells) -> str:
    return json.dumps(cells, ensure_ascii=False)
