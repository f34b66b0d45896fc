"""Composition of the handler's parts: store, workbook, and for Google writer and mirror."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from handler_host.plugin import ConfigError, Context, HostError, InvalidInput, UpstreamBadRequest
from sheets import outbox
from sheets.book import BookError
from sheets.google import GoogleBook
from sheets.mirror import Mirror
from sheets.quota import Quota
from sheets.schema import Cells, Drift
from sheets.settings import Settings
from sheets.store import Store
from sheets.workbook import KEYED, Workbook, meta, note
from sheets.writer import Writer

Result = TypeVar("Result")


@dataclass(frozen=True)
class Remote:
    """Parts for a spreadsheet at Google."""

    book: GoogleBook
    quota: Quota
    writer: Writer
    mirror: Mirror
    task: asyncio.Task[None]
    lock: asyncio.Lock
    """Held over each exchange with Google."""


class Engine:
    """One workbook, local or at Google, from activation to unload."""

    def __init__(self, context: Context, settings: Settings) -> None:
        directory = context.data_dir
        if directory is None:
            raise ConfigError("sheets stores its rows in a file, but the host has no data_dir; set data_dir")
        self.settings = settings
        self.workbook = Workbook(settings.tabs)
        self.pending = 0
        self.remote: Remote | None = None
        self.could_move = False
        """Whether the tabs are local although spreadsheet and credentials are configured."""
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._store = Store(directory, self._count_changed)
        self._quota = Quota(settings.reads_per_minute, settings.writes_per_minute, self._store)
        self._moving = asyncio.Lock()
        self._mover: asyncio.Task[int] | None = None

    @property
    def mode(self) -> Literal["local", "google"]:
        """Place of the tabs."""
        return "google" if self.remote is not None else "local"

    async def open(self) -> None:
        """Open the file and start to write pending rows; raises ``ConfigError``. Google is not called here."""
        await self._store.open()
        try:
            google = await self._store.run(self._decide)
            await self._quota.open()
        except BaseException:
            await self._store.close()
            raise
        self._context.on_close(self.close)
        if google:
            await self._connect()

    async def close(self) -> None:
        """Write as many pending rows as possible, and leave the rest to the next worker."""
        try:
            await self.settle()
            if self.remote is not None:
                self.remote.writer.drain()
                await self.remote.task
                await self.remote.mirror.close()
        finally:
            # Also if the time for the unload has run out.
            remote = self.remote
            if remote is not None:
                remote.task.cancel()
                remote.book.close()
                if self.pending:
                    self._context.pending(self.pending, wake_after=remote.writer.wake_after)
            self._store.end()
        await self._store.close()

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run ``work`` on the file; its changes are on disk when this returns."""
        return await self._store.run(work)

    async def fresh(self) -> float:
        """Return the age of users and states; 0 for a local workbook. Raises ``HostError``."""
        return await self.remote.mirror.fresh() if self.remote is not None else 0.0

    async def settle(self) -> None:
        """Wait until a move in progress has ended: until then the log is neither in the file nor read at Google."""
        if self._mover is not None and not self._mover.done():
            await asyncio.wait({self._mover})

    async def tail(self, user_id: str | None, limit: int) -> tuple[list[Cells], float]:
        """Return the newest rows of the log, oldest first, and their age."""
        await self.settle()
        if self.remote is None:
            return await self.run(lambda connection: self.workbook.tail(connection, user_id, limit)), 0.0
        if limit > self.settings.log_cache:
            raise InvalidInput(
                f"limit: {limit} is more than the {self.settings.log_cache} rows in memory (log_cache)", param="limit"
            )
        return await self.remote.mirror.tail(user_id, limit)

    async def whole_log(self) -> list[Cells]:
        """Return the whole log at Google, followed by pending rows; raises ``HostError``."""
        assert self.remote is not None, "a local log is read from the file"
        # The lock must stay held until the call ends, even if the request is cancelled.
        rows = await asyncio.shield(asyncio.ensure_future(self._read_log(self.remote)))
        if isinstance(rows, HostError):
            raise rows
        if isinstance(rows, Drift):
            raise UpstreamBadRequest(str(rows))
        known = {row["row_key"] for row in rows}
        newest, _ = await self.remote.mirror.tail(None, self.settings.log_cache)
        return [*rows, *(row for row in newest if row["row_key"] not in known)]

    async def _read_log(self, remote: Remote) -> list[Cells] | Drift | HostError:
        async with remote.lock:
            try:
                return (await remote.book.rows(["log"]))["log"]
            except BookError as error:
                return error.for_clients()

    async def flush(self, seconds: float) -> None:
        """Write now; return when all is written, an attempt has failed, or the time has run out."""
        if self.remote is not None:
            try:
                async with asyncio.timeout(seconds):
                    await self.remote.writer.flush()
            except TimeoutError:
                pass

    async def move(self, dry_run: bool) -> int:
        """Move a local workbook to Google and return the number of its rows; raises ``HostError`` without access."""
        missing = self.settings.missing
        if missing is not None or self.settings.backend == "local":
            raise InvalidInput(f"to: {missing or 'backend = local forbids it'}", param="to")
        if self.remote is not None:
            return 0
        book = GoogleBook(self.settings, self._quota, self._context.log)
        try:
            if dry_run:
                await book.check()
                return sum((await self.run(self.workbook.count)).values())
            looks = await book.look(dict.fromkeys(self.settings.tabs, False))
        except BookError as error:
            raise error.for_clients() from error
        finally:
            book.close()
        for look in looks.values():
            if isinstance(look, Drift):
                raise UpstreamBadRequest(str(look))
        # A cancelled request must not stop the move half-way.
        self._mover = asyncio.create_task(self._move_and_connect(), name="sheets move")
        return await asyncio.shield(self._mover)

    async def _move_and_connect(self) -> int:
        async with self._moving:
            if self.mode == "google":
                return 0
            try:
                moved = await self.run(self._move)
            except BaseException:
                self.workbook.remote = False
                raise
            await self._connect()
            self.could_move = False
        return moved

    def _decide(self, connection: sqlite3.Connection) -> bool:
        """Return whether the tabs are at Google, by the configuration and their place before."""
        outbox.put_back(connection)
        settings, previous_mode = self.settings, meta(connection, "mode")
        has_rows = any(self.workbook.count(connection).values())
        if settings.backend == "local":
            self._note_mode(connection, "local")
            return False
        if settings.backend == "google" and settings.missing is not None:
            raise ConfigError(f"backend = google, but {settings.missing}")
        if previous_mode == "google" and settings.missing is not None:
            raise ConfigError(
                f"the tabs are in the spreadsheet {meta(connection, 'spreadsheet')}, but {settings.missing}. Or keep "
                "them here from now on, with backend = local"
            )
        if settings.missing is not None or (settings.backend == "auto" and previous_mode != "google" and has_rows):
            self.could_move = settings.missing is None
            self._note_mode(connection, "local")
            return False
        if previous_mode == "local" and has_rows:
            moved = self._move(connection)
            self._context.log.info("backend = google: %d rows of the local workbook will be written", moved)
        elif previous_mode == "google" and meta(connection, "spreadsheet") != settings.spreadsheet:
            self._context.log.warning("the configured spreadsheet has changed: pending rows go to the new one")
            self._forget_copy(connection)
        self._note_mode(connection, "google")
        return True

    def _move(self, connection: sqlite3.Connection) -> int:
        moved = self.workbook.move(connection)
        self._note_mode(connection, "google")
        # In the same step, so that later rows follow the moved ones.
        self.workbook.remote = True
        return moved

    def _note_mode(self, connection: sqlite3.Connection, mode: str) -> None:
        if meta(connection, "mode") != mode:
            note(connection, "mode", mode)
        if mode == "google" and meta(connection, "spreadsheet") != self.settings.spreadsheet:
            note(connection, "spreadsheet", self.settings.spreadsheet or "")

    def _forget_copy(self, connection: sqlite3.Connection) -> None:
        for tab in KEYED:
            self.workbook.replace(connection, tab, [])
        connection.execute("DELETE FROM meta WHERE name = 'read_at'")

    async def _connect(self) -> None:
        """Start writer and mirror; they call Google at the first write or read."""
        settings, log = self.settings, self._context.log
        book = GoogleBook(settings, self._quota, log)
        remote = asyncio.Lock()
        mirror = Mirror(settings, self._store, self.workbook, book, remote, log)
        await mirror.open()
        writer = Writer(settings, self._store, self.workbook, book, remote, log, mirror.written)
        writer.pending(self.pending)
        self.workbook.remote = True
        task = asyncio.create_task(writer.run(), name="sheets writer")
        self.remote = Remote(book, self._quota, writer, mirror, task, remote)

    def _count_changed(self, count: int) -> None:
        """Report the count to the host before a row is acknowledged (in the store's thread)."""
        # Rows for an earlier spreadsheet stay in a workbook that is local now; waking a worker would not help.
        wake_after = 86_400.0 if self.settings.backend == "local" else 0.0
        if self.remote is not None:
            wake_after = self.remote.writer.wake_after
        try:
            self._context.pending(count, wake_after=wake_after)
        except OSError as error:
            # The rows are safe, but the host learns of them only at the next dispatch.
            self._context.log.warning("%d pending rows could not be reported to the host: %s", count, error)
        self._loop.call_soon_threadsafe(self._set_pending, count)

    def _set_pending(self, count: int) -> None:
        self.pending = count
        if self.remote is not None:
            self.remote.writer.pending(count)
