"""The handler's parts, put together: where the tabs are, who writes, who reads."""

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
    """All that there is for a spreadsheet at Google."""

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
            raise ConfigError("sheets keeps its rows in a file, and the host has no data_dir; set data_dir")
        self.settings = settings
        self.workbook = Workbook(settings.tabs)
        self.pending = 0
        self.remote: Remote | None = None
        self.could_move = False
        """Whether the tabs are local although there is all that Google needs."""
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._store = Store(directory, self._count_changed)
        self._quota = Quota(settings.reads_per_minute, settings.writes_per_minute, self._store)
        self._moving = asyncio.Lock()
        self._mover: asyncio.Task[int] | None = None

    @property
    def mode(self) -> Literal["local", "google"]:
        """Where the tabs are."""
        return "google" if self.remote is not None else "local"

    async def open(self) -> None:
        """Open the file, and begin to write what waits; raises ``ConfigError``. Google is not called."""
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
        """Write what can be written at once, and leave the rest to the next worker."""
        try:
            if self._mover is not None:
                await asyncio.wait({self._mover})
            if self.remote is not None:
                self.remote.writer.drain()
                await self.remote.task
                await self.remote.mirror.close()
        finally:
            # Also when the time for it is over.
            remote = self.remote
            if remote is not None:
                remote.task.cancel()
                remote.book.close()
                if self.pending:
                    self._context.pending(self.pending, wake_after=remote.writer.wake_after)
            self._store.end()
        await self._store.close()

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run ``work`` on the file; what it has written is on disk when this returns."""
        return await self._store.run(work)

    async def fresh(self) -> float:
        """Return the age of users and states; 0 for a local workbook. Raises ``HostError``."""
        return await self.remote.mirror.fresh() if self.remote is not None else 0.0

    async def tail(self, user_id: str | None, limit: int) -> tuple[list[Cells], float]:
        """Return the newest rows of the log, oldest first, and their age."""
        if self.remote is None:
            return await self.run(lambda connection: self.workbook.tail(connection, user_id, limit)), 0.0
        if limit > self.settings.log_cache:
            raise InvalidInput(
                f"limit: {limit}, and {self.settings.log_cache} rows are kept at hand (log_cache)", param="limit"
            )
        return await self.remote.mirror.tail(user_id, limit)

    async def whole_log(self) -> list[Cells]:
        """Return all of the log at Google, and what waits behind it; raises ``HostError``."""
        assert self.remote is not None, "a local log is read from the file"
        # Who leaves does not let others in while the call goes on.
        found = await asyncio.shield(asyncio.ensure_future(self._read_log(self.remote)))
        if isinstance(found, HostError):
            raise found
        if isinstance(found, Drift):
            raise UpstreamBadRequest(str(found))
        known = {row["row_key"] for row in found}
        waiting, _ = await self.remote.mirror.tail(None, self.settings.log_cache)
        return [*found, *(row for row in waiting if row["row_key"] not in known)]

    async def _read_log(self, remote: Remote) -> list[Cells] | Drift | HostError:
        async with remote.lock:
            try:
                return (await remote.book.rows(["log"]))["log"]
            except BookError as error:
                return error.for_clients()

    async def flush(self, seconds: float) -> None:
        """Write out now; returns when all is written, a try has failed, or the time is over."""
        if self.remote is not None:
            try:
                async with asyncio.timeout(seconds):
                    await self.remote.writer.flush()
            except TimeoutError:
                pass

    async def move(self, dry_run: bool) -> int:
        """Take a local workbook to Google; return how many rows that are. Raises ``HostError`` without access."""
        lacks = self.settings.lacks
        if lacks is not None or self.settings.backend == "local":
            raise InvalidInput(f"to: {lacks or 'backend = local forbids it'}", param="to")
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
        # Who leaves does not stop it half-way.
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
        """Return whether the tabs are at Google, by the configuration and by where they were."""
        outbox.put_back(connection)
        settings, was = self.settings, meta(connection, "mode")
        has_rows = any(self.workbook.count(connection).values())
        if settings.backend == "local":
            self._note_mode(connection, "local")
            return False
        if settings.backend == "google" and settings.lacks is not None:
            raise ConfigError(f"backend = google, but {settings.lacks}")
        if was == "google" and settings.lacks is not None:
            raise ConfigError(
                f"the tabs are in the spreadsheet {meta(connection, 'spreadsheet')}, but {settings.lacks}. Or keep "
                "them here from now on, with backend = local"
            )
        if settings.lacks is not None or (settings.backend == "auto" and was != "google" and has_rows):
            self.could_move = settings.lacks is None
            self._note_mode(connection, "local")
            return False
        if was == "local" and has_rows:
            moved = self._move(connection)
            self._context.log.info("backend = google: %d rows of the local workbook are on their way", moved)
        elif was == "google" and meta(connection, "spreadsheet") != settings.spreadsheet:
            self._context.log.warning("another spreadsheet is named: what waits goes there")
            self._forget_copy(connection)
        self._note_mode(connection, "google")
        return True

    def _move(self, connection: sqlite3.Connection) -> int:
        moved = self.workbook.move(connection)
        self._note_mode(connection, "google")
        # In the same step: what comes next goes behind what was moved.
        self.workbook.remote = True
        return moved

    def _note_mode(self, connection: sqlite3.Connection, mode: str) -> None:
        if meta(connection, "mode") != mode:
            note(connection, "mode", mode)
        if mode == "google" and meta(connection, "spreadsheet") != self.settings.spreadsheet:
            note(connection, "spreadsheet", self.settings.spreadsheet or "")

    def _forget_copy(self, connection: sqlite3.Connection) -> None:
        for tab in KEYED:
            self.workbook.take(connection, tab, [])
        connection.execute("DELETE FROM meta WHERE name = 'read_at'")

    async def _connect(self) -> None:
        """Begin to write and to read at Google; the first call comes when there is something to do."""
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
        """Tell the host, before anybody is told that a row is safe (in the store's thread)."""
        # What an earlier spreadsheet left in a workbook that is local now has nobody to write it.
        wake_after = 86_400.0 if self.settings.backend == "local" else 0.0
        if self.remote is not None:
            wake_after = self.remote.writer.wake_after
        try:
            self._context.pending(count, wake_after=wake_after)
        except OSError as error:
            # The rows are safe; only the host does not know of them until the next dispatch.
            self._context.log.warning("the host cannot be told that %d rows wait: %s", count, error)
        self._loop.call_soon_threadsafe(self._take_count, count)

    def _take_count(self, count: int) -> None:
        self.pending = count
        if self.remote is not None:
            self.remote.writer.pending(count)
