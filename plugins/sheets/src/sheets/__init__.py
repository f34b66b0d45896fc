"""Users, log and states in Google Sheets, or in a local workbook."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from handler_host.plugin import CallInfo, Context, InvalidInput, NotFound, hookimpl, operation
from sheets import export
from sheets import types as t
from sheets.connection import resident_bytes
from sheets.engine import Engine
from sheets.quota import Kind
from sheets.repeats import once
from sheets.schema import LOG, USERS, Cells, Tab, as_text, extra_cells, join_key, text_cell, value_cell, value_of
from sheets.settings import read_settings
from sheets.workbook import timestamp


class Sheets:
    """``[handlers.sheets]``: see ``handler.toml`` for its keys."""

    _engine: Engine

    @hookimpl
    async def activate(self, context: Context) -> None:
        """Open the file. Google is called at the first read or write, not before."""
        self._engine = Engine(context, read_settings(context.config, context.secrets))
        await self._engine.open()
        context.log.info("%s workbook, %d rows pending", self._engine.mode, self._engine.pending)

    @hookimpl
    async def health(self, context: Context) -> None:
        """Check the file; the handler serves requests without Google, too."""
        await self._engine.run(lambda connection: connection.execute("SELECT 1").fetchone())

    @operation("users.get")
    async def users_get(self, request: t.UserGet) -> t.UserResponse:
        """Return a user, or null."""
        age = await self._engine.fresh()
        cells = await self._engine.run(lambda c: self._engine.workbook.get(c, "users", as_text(request.user_id)))
        return t.UserResponse(self._user(cells) if cells is not None else None, age)

    @operation("users.register")
    async def users_register(self, request: t.UserRegister) -> t.UserRegistered:
        """Add a user, unless it exists."""
        cells: Cells = {
            "user_id": text_cell("user_id", as_text(request.user_id)),
            "name": text_cell("name", request.name),
            "status": self._engine.settings.new_users,
            **extra_cells(self._tab("users"), USERS, request.fields, "fields"),
        }
        await self._engine.fresh()
        row, created = await self._engine.run(lambda c: self._engine.workbook.register(c, cells))
        return t.UserRegistered(self._user(row), created)

    @operation("users.approve")
    async def users_approve(self, request: t.UserApprove) -> t.UserChanged:
        """Set a user's status to approved; an approved user stays unchanged."""
        by = text_cell("by", as_text(request.by))

        def approve(row: Cells) -> Cells:
            if row.get("status") == "approved":
                return {}
            return {"status": "approved", "approved_at": timestamp(), "approved_by": by}

        return await self._change(as_text(request.user_id), approve)

    @operation("users.update")
    async def users_update(self, request: t.UserUpdate) -> t.UserChanged:
        """Change a user's name, status or extra columns."""
        cells = extra_cells(self._tab("users"), USERS, request.fields, "fields")
        for name, value in (("name", request.name), ("status", request.status)):
            if value is not None:
                cells[name] = text_cell(name, value)
        return await self._change(as_text(request.user_id), lambda _: cells)

    @operation("users.list")
    async def users_list(self, request: t.UserList) -> t.UserPage:
        """Return a page of the users."""
        age = await self._engine.fresh()
        rows, total = await self._engine.run(
            lambda c: self._engine.workbook.users(c, request.status, request.cursor, request.limit)
        )
        end = request.cursor + len(rows)
        return t.UserPage([self._user(row) for row in rows], total, end if rows and end < total else None, age)

    @operation("log.append")
    async def log_append(self, request: t.LogAppend) -> t.LogAppended:
        """Append rows to the log. They are on disk before the response."""
        rows: Sequence[t.NewRow | t.LogAppend] = [request] if request.rows is None else request.rows
        if request.rows is not None and request != t.LogAppend(rows=request.rows, key=request.key):
            raise InvalidInput("rows: give either one row by its fields, or rows", param="rows")
        if request == t.LogAppend(key=request.key):
            raise InvalidInput("event: the row is empty; give user_id, event, text, data or fields", param="event")
        prefix = "" if request.rows is None else "rows[{}]."
        cells = [self._log_cells(row, prefix.format(number)) for number, row in enumerate(rows)]
        append = self._engine.workbook.append
        keys = await self._engine.run(lambda c: once(c, "log.append", request, lambda: append(c, cells)))
        return t.LogAppended(keys, self._engine.pending)

    @operation("log.tail")
    async def log_tail(self, request: t.LogTail) -> t.LogRows:
        """Return the newest rows of the log, oldest first."""
        user_id = as_text(request.user_id) if request.user_id is not None else None
        rows, age = await self._engine.tail(user_id, request.limit)
        return t.LogRows([self._log_row(row) for row in rows], age)

    @operation("states.get")
    async def states_get(self, request: t.StateKey) -> t.StateResponse:
        """Return a state."""
        age = await self._engine.fresh()
        key = join_key(as_text(request.user_id), request.name)
        row = await self._engine.run(lambda c: self._engine.workbook.get(c, "states", key))
        if row is None:
            return t.StateResponse(None, False, "", age)
        return t.StateResponse(value_of(row["value"]), True, as_text(row.get("updated_at")), age)

    @operation("states.set")
    async def states_set(self, request: t.StateSet) -> t.StateChanged:
        """Set a state to any JSON value."""
        self._check_state(request)
        value_cell("value", request.value)
        await self._engine.run(
            lambda c: self._engine.workbook.set_state(c, as_text(request.user_id), request.name, request.value)
        )
        return t.StateChanged(request.value)

    @operation("states.increment")
    async def states_increment(self, request: t.StateIncrement) -> t.StateChanged:
        """Add to a numeric state, in one step."""
        self._check_state(request)
        await self._engine.fresh()

        def increment(connection: sqlite3.Connection) -> Any:
            return self._engine.workbook.increment(connection, as_text(request.user_id), request.name, request.by)

        return t.StateChanged(
            await self._engine.run(lambda c: once(c, "states.increment", request, lambda: increment(c)))
        )

    @operation("states.delete")
    async def states_delete(self, request: t.StateKey) -> t.StateDeleted:
        """Delete a state."""
        await self._engine.fresh()
        return t.StateDeleted(
            await self._engine.run(
                lambda c: self._engine.workbook.delete_state(c, as_text(request.user_id), request.name)
            )
        )

    @operation("sync")
    async def sync(self, request: t.Sync, call: CallInfo) -> t.Synced:
        """Write now; with to=google, move a local workbook into the spreadsheet."""
        engine = self._engine
        moved = await engine.move(request.dry_run) if request.to is not None else 0
        if request.dry_run:
            return t.Synced(engine.mode, engine.pending == 0, moved, 0, engine.pending)
        before = engine.remote.writer.progress.written if engine.remote is not None else 0
        remaining = call.remaining()
        # One second is reserved for the response itself.
        await engine.flush(request.wait if remaining is None else max(0.0, min(request.wait, remaining - 1)))
        remote, pending = engine.remote, engine.pending
        written = remote.writer.progress.written - before if remote is not None else 0
        error = remote.writer.progress.last_error if remote is not None and pending else None
        return t.Synced(engine.mode, pending == 0, moved, written, pending, error)

    @operation("status")
    async def status(self) -> t.Status:
        """Return the place of the tabs and the progress of the writer."""
        engine, remote = self._engine, self._engine.remote
        progress = remote.writer.progress if remote is not None else None
        note = "the tabs can be moved to Google: sync with to=google" if engine.could_move else None
        return t.Status(
            mode=engine.mode,
            spreadsheet=engine.settings.spreadsheet if remote is not None else None,
            pending=engine.pending,
            last_write=progress.last_write if progress is not None else None,
            written=progress.written if progress is not None else 0,
            last_error=progress.last_error if progress is not None else None,
            last_error_at=progress.last_error_at if progress is not None else None,
            failures=progress.failures if progress is not None else 0,
            retry_in=remote.writer.retry_in if remote is not None else None,
            reads=self._used("read"),
            writes=self._used("write"),
            cache_age=remote.mirror.age if remote is not None else None,
            rows=await engine.run(engine.workbook.count),
            memory=resident_bytes(),
            note=note,
        )

    @operation("export", collect=export.joined)
    async def export(self, request: t.Export) -> AsyncIterator[t.Csv]:
        """Return a tab as CSV."""
        engine, tab = self._engine, self._tab(request.tab)
        await engine.settle()
        if request.tab == "log" and engine.remote is not None:
            rows = await engine.whole_log()
            for chunk in export.chunks(tab, rows, request.escape):
                yield chunk
            return
        await engine.fresh()
        yield export.head(tab)
        after = 0
        while page := await engine.run(partial(engine.workbook.page, tab=request.tab, after=after, limit=export.ROWS)):
            yield export.part(tab, [cells for _, cells in page], request.escape)
            after = page[-1][0]

    def _tab(self, name: str) -> Tab:
        return self._engine.settings.tabs[name]

    async def _change(self, user_id: str, change: Any) -> t.UserChanged:
        await self._engine.fresh()
        row = await self._engine.run(lambda c: self._engine.workbook.change_user(c, user_id, change))
        if row is None:
            raise NotFound(f"user_id: unknown user {user_id!r}; add it with users.register", param="user_id")
        return t.UserChanged(self._user(row))

    def _check_state(self, request: t.StateSet | t.StateIncrement) -> None:
        text_cell("user_id", as_text(request.user_id))
        text_cell("name", request.name)

    def _log_cells(self, row: t.NewRow | t.LogAppend, where: str) -> Cells:
        return {
            "at": text_cell(f"{where}at", row.at) if row.at is not None else timestamp(),
            "user_id": text_cell(f"{where}user_id", as_text(row.user_id)),
            "event": text_cell(f"{where}event", row.event),
            "text": text_cell(f"{where}text", row.text),
            "data": value_cell(f"{where}data", row.data) if row.data is not None else "",
            **extra_cells(self._tab("log"), LOG, row.fields, f"{where}fields"),
        }

    def _user(self, cells: Cells) -> t.User:
        return t.User(
            **{name: as_text(cells.get(name)) for name in USERS}, fields=_fields(self._tab("users"), USERS, cells)
        )

    def _log_row(self, cells: Cells) -> t.LogRow:
        texts = {name: as_text(cells.get(name)) for name in LOG if name != "data"}
        data = cells.get("data", "")
        return t.LogRow(
            **texts, data=value_of(data) if data != "" else None, fields=_fields(self._tab("log"), LOG, cells)
        )

    def _used(self, kind: Kind) -> t.Used | None:
        if self._engine.remote is None:
            return None
        quota = self._engine.remote.quota
        return t.Used(quota.used(kind), quota.limits[kind], quota.calls[kind])


def _fields(tab: Tab, base: Sequence[str], cells: Cells) -> dict[str, Any]:
    """Return the extra columns of a row that are not empty."""
    return {name: value_of(cells[name]) for name in tab.columns[len(base) :] if cells.get(name, "") != ""}
