"""The spreadsheet at Google by gspread, in a thread of its own: the calls that the three tabs need.

gspread and google-auth are imported at the first call, not before. Each call is one
request: a batch counts once in Google's quota. gspread must not retry a request, because
an append is not idempotent; the writer decides about retries.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sheets import connection
from sheets.book import BookError, Look
from sheets.connection import Client
from sheets.quota import Kind, Quota
from sheets.schema import MAX_CELLS, Cell, Cells, Drift, Layout, Tab, as_text, column_name, quoted
from sheets.settings import Settings

Result = TypeVar("Result")
Values = list[list[Cell]]
RAW = "RAW"
_LAST_ROW = re.compile(r"!\$?[A-Z]+\$?(\d+)(?::\$?[A-Z]+\$?(\d+))?$")


class GoogleBook:
    """One spreadsheet (:class:`sheets.book.Book`)."""

    def __init__(self, settings: Settings, quota: Quota, log: logging.Logger) -> None:
        self._settings = settings
        self._quota = quota
        self._log = log
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="sheets-google")
        self._client: Client | None = None
        self._ids: dict[str, int] = {}
        """Title → number of the worksheet; empty until the lookup."""
        self._widths: dict[str, int] = {}
        self._cells = 0
        self._layouts: dict[str, Layout | Drift] = {}
        self._last_rows: dict[str, int] = {}
        """Last known row with a key, by tab; 1 is the header."""

    async def look(self, keys: Mapping[str, bool]) -> dict[str, Look | Drift]:
        """Read first rows and keys, in one call."""
        opened = await self._open()
        wanted = [name for name, all_keys in keys.items() if all_keys or name not in self._last_rows]
        if opened and not wanted:
            return {name: _look(self._layouts[name], None) for name in keys}
        tabs = self._settings.tabs
        while True:
            columns = {name: self._key_columns(name) for name in keys}
            # Of a tab whose keys are not wanted, the keys from its last known row on: its end may have moved.
            starts = {name: 2 if name in wanted else max(2, self._last_rows[name]) for name in keys}
            ranges = [f"{quoted(tabs[name].title)}!1:1" for name in tabs]
            ranges += [f"{quoted(tabs[name].title)}!{c}{starts[name]}:{c}" for name in keys for c in columns[name]]
            values = await self._get(ranges)
            self._learn({name: values[number][0] if values[number] else [] for number, name in enumerate(tabs)})
            if any(self._key_columns(name) != columns[name] for name in keys):
                continue
            key_values = iter(values[len(tabs) :])
            rows = {
                name: _numbered(tabs[name], [next(key_values) for _ in columns[name]], starts[name]) for name in keys
            }
            moved = [name for name in keys if starts[name] > 2 and columns[name] and not rows[name]]
            if not moved:
                break
            # Its last row is gone: a person has deleted or cleared rows, and the end is further up.
            wanted += moved
        for name in keys:
            self._last_rows[name] = max(rows[name].values(), default=1)
        all_rows = {name: rows[name] for name, all_keys in keys.items() if all_keys}
        return {name: _look(self._layouts[name], all_rows.get(name)) for name in keys}

    async def rows(self, tabs: Sequence[str]) -> dict[str, list[Cells] | Drift]:
        """Read whole tabs."""
        await self._open()
        values = await self._get([quoted(self._settings.tabs[name].title) for name in tabs])
        result: dict[str, list[Cells] | Drift] = {}
        for name, table in zip(tabs, values, strict=True):
            tab = self._settings.tabs[name]
            layout = self._learn({name: table[0] if table else []})[name]
            if isinstance(layout, Drift):
                result[name] = layout
                continue
            cells = map(layout.cells, table[1:])
            result[name] = [row for row in cells if any(as_text(row[column]) for column in tab.key)]
        return result

    async def tail(self, limit: int) -> list[Cells]:
        """Read the last rows of the log, from its last known end."""
        await self._open()
        if "log" not in self._last_rows:
            await self.look({"log": True})
        tab = self._settings.tabs["log"]
        last_column = column_name(max(25, self._width(tab) - 1))
        count = limit
        while True:
            start = max(2, self._last_rows.get("log", 1) - count + 1)
            header, table = await self._get([f"{quoted(tab.title)}!1:1", f"{quoted(tab.title)}!A{start}:{last_column}"])
            layout = self._learn({"log": header[0] if header else []})["log"]
            if isinstance(layout, Drift):
                raise layout
            rows = {start + index: cells for index, cells in enumerate(map(layout.cells, table)) if cells["row_key"]}
            if rows:
                self._last_rows["log"] = max(rows)
            if len(rows) >= limit or start == 2:
                return list(rows.values())[-limit:] if limit else []
            # Rows without a key are those that a person has cleared or written: the rest is further up.
            count *= 4

    async def check(self) -> None:
        """Check that the spreadsheet can be read; nothing in it changes."""
        await self._call("read", self._metadata)

    async def turn(self) -> None:
        """Wait until the quota allows a write, and count it."""
        await self._quota.take("write")

    async def append(self, tab: Tab, layout: Layout, rows: Sequence[Cells]) -> None:
        """Add rows; Google finds the end of the table and inserts there, so that two writers never use one row."""
        size = self._width(tab) * len(rows)
        if self._cells + size > MAX_CELLS:
            self._forget()
            raise BookError(
                "full",
                f"the spreadsheet is full: {self._cells} of {MAX_CELLS} cells; move old rows of {tab.title!r} to "
                "another spreadsheet. Rows wait until then, and none is lost",
            )
        # From the last row with a key: Google takes a blank row for the end of the table, and would write into the gap.
        start = f"{column_name(layout.first)}{self._last_rows.get(tab.name, 1)}"
        response = await self._send(
            lambda client: client.values_append(
                self._number,
                f"{quoted(tab.title)}!{start}",
                {"valueInputOption": RAW, "insertDataOption": "INSERT_ROWS"},
                {"values": [layout.row(row) for row in rows]},
            ),
        )
        self._cells += size
        match = _LAST_ROW.search(response.get("updates", {}).get("updatedRange", ""))
        if match is not None:
            self._last_rows[tab.name] = int(match.group(2) or match.group(1))

    async def update(self, changes: Sequence[tuple[Layout, int, Cells]]) -> None:
        """Set cells."""
        data = [entry for layout, number, cells in changes for entry in _value_ranges(layout, number, cells)]
        await self._send(
            lambda client: client.values_batch_update(self._number, {"valueInputOption": RAW, "data": data})
        )

    async def delete(self, rows: Sequence[tuple[Tab, int]]) -> None:
        """Delete rows from the bottom up, so that the numbers of the others stay valid."""
        requests = [
            {
                "deleteDimension": {
                    "range": {
                        "sheetId": self._ids[tab.title],
                        "dimension": "ROWS",
                        "startIndex": number - 1,
                        "endIndex": number,
                    }
                }
            }
            for tab, number in sorted(rows, key=lambda row: (row[0].title, row[1]), reverse=True)
        ]
        await self._send(lambda client: client.batch_update(self._number, {"requests": requests}))

    def close(self) -> None:
        """Close the connection; a call in progress runs to its end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.session.close()

    @property
    def _number(self) -> str:
        assert self._settings.spreadsheet is not None, "a book at Google has a spreadsheet"
        return self._settings.spreadsheet

    async def _open(self) -> bool:
        """Find the worksheets and create missing ones; return whether the first rows were read now."""
        if self._ids:
            return False
        response = await self._call("read", self._metadata)
        sheets = [sheet["properties"] for sheet in response.get("sheets", ())]
        ids = {sheet["title"]: sheet["sheetId"] for sheet in sheets}
        tabs = self._settings.tabs
        missing = [tab for tab in tabs.values() if tab.title not in ids]
        if missing:
            # Few rows, because each append inserts its own.
            requests = [
                {
                    "addSheet": {
                        "properties": {
                            "title": tab.title,
                            "gridProperties": {"rowCount": 2, "columnCount": len(tab.columns), "frozenRowCount": 1},
                        }
                    }
                }
                for tab in missing
            ]
            created = await self._call(
                "write", lambda client: client.batch_update(self._number, {"requests": requests})
            )
            sheets += [reply["addSheet"]["properties"] for reply in created["replies"]]
            ids = {sheet["title"]: sheet["sheetId"] for sheet in sheets}
        grids = {sheet["title"]: sheet.get("gridProperties", {}) for sheet in sheets}
        self._widths = {title: grid.get("columnCount", 26) for title, grid in grids.items()}
        self._cells = sum(grid.get("rowCount", 0) * grid.get("columnCount", 0) for grid in grids.values())
        values = await self._get([f"{quoted(tab.title)}!1:2" for tab in tabs.values()])
        empty = [tab for tab, table in zip(tabs.values(), values, strict=True) if not any(map(any, table))]
        if empty:
            heads = [{"range": f"{quoted(tab.title)}!A1", "values": [list(tab.columns)]} for tab in empty]
            await self._call(
                "write",
                lambda client: client.values_batch_update(self._number, {"valueInputOption": RAW, "data": heads}),
            )
            self._log.info("created the worksheets %s", ", ".join(repr(tab.title) for tab in empty))
        self._learn(
            {
                tab.name: list(tab.columns) if tab in empty else (table[0] if table else [])
                for tab, table in zip(tabs.values(), values, strict=True)
            }
        )
        self._last_rows = {tab.name: 1 for tab in empty}
        self._ids = ids
        return True

    def _metadata(self, client: Client) -> Any:
        fields = "properties.title,sheets.properties"
        return client.fetch_sheet_metadata(self._number, {"includeGridData": "false", "fields": fields})

    def _learn(self, headers: Mapping[str, Sequence[object]]) -> dict[str, Layout | Drift]:
        """Store and return the layouts of the first rows."""
        for name, header in headers.items():
            try:
                self._layouts[name] = Layout.of(self._settings.tabs[name], header)
            except Drift as drift:
                self._layouts[name] = drift
                if not any(header):
                    # The whole worksheet may be gone; then its first row is written again.
                    self._forget()
        return self._layouts

    def _key_columns(self, name: str) -> list[str]:
        layout = self._layouts[name]
        if isinstance(layout, Drift):
            return []
        return [column_name(layout.places[column]) for column in layout.tab.key]

    def _width(self, tab: Tab) -> int:
        return self._widths.get(tab.title, len(tab.columns))

    def _forget(self) -> None:
        """Look up the worksheets again before the next call."""
        self._ids = {}

    async def _get(self, ranges: Sequence[str]) -> list[Values]:
        response = await self._call(
            "read",
            lambda client: client.values_batch_get(
                self._number,
                list(ranges),
                {"valueRenderOption": "UNFORMATTED_VALUE", "dateTimeRenderOption": "FORMATTED_STRING"},
            ),
        )
        return [value_range.get("values", []) for value_range in response["valueRanges"]]

    async def _call(self, kind: Kind, work: Callable[[Client], Result]) -> Result:
        """Make one call in the thread; raises :class:`BookError`."""
        await self._quota.take(kind)
        return await self._send(work, kind)

    async def _send(self, work: Callable[[Client], Result], kind: Kind = "write") -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._guarded, work)
        except BookError as error:
            if error.trouble == "missing":
                self._forget()
            raise
        finally:
            self._quota.note_end(kind)

    def _guarded(self, work: Callable[[Client], Result]) -> Result:
        try:
            if self._client is None:
                self._client = connection.connect(self._settings, self._log)
            return work(self._client)
        except Exception as error:
            trouble = connection.trouble_of(error, self._settings)
            if trouble is None:
                raise
            if trouble.trouble in ("unreachable", "timeout") and self._client is not None:
                # Its connections may be dead; the token stays valid.
                self._client.session.close()
            raise trouble from error


def _look(layout: Layout | Drift, rows: Mapping[str, int] | None) -> Look | Drift:
    return layout if isinstance(layout, Drift) else Look(layout, rows)


def _numbered(tab: Tab, columns: Sequence[Values], start: int) -> dict[str, int]:
    """Return key → row number from the key columns, from row ``start`` on; the first row of a duplicate key counts."""
    rows: dict[str, int] = {}
    for index in range(max(map(len, columns), default=0)):
        parts = [as_text(column[index][0]) if index < len(column) and column[index] else "" for column in columns]
        if any(parts):
            key = tab.key_of(dict(zip(tab.key, parts, strict=True)))
            rows.setdefault(key, index + start)
    return rows


def _value_ranges(layout: Layout, number: int, cells: Cells) -> list[dict[str, Any]]:
    """Return the ranges that set these cells of a row; neighbours share a range."""
    ranges: list[dict[str, Any]] = []
    last = -2
    for place, cell in sorted((layout.places[column], cell) for column, cell in cells.items()):
        if place == last + 1:
            ranges[-1]["values"][0].append(cell)
        else:
            ranges.append({"range": f"{quoted(layout.tab.title)}!{column_name(place)}{number}", "values": [[cell]]})
        last = place
    return ranges
