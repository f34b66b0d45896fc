"""One SQLite file, in a thread of its own: acknowledged work is on disk.

Concurrent jobs share one transaction with one commit, so that many appends share one
wait for the disk. WAL with ``synchronous=FULL``: a commit survives a kill of the
worker, a kill of the host, and a power failure.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from handler_host.plugin import ConfigError, OutOfResources

FILE_NAME = "sheets.sqlite3"
LOCK_WAIT = 10.0
"""Seconds to wait for the worker of a host that is shutting down."""
GROUP = 256
"""Maximum jobs in one transaction."""

STEPS = (
    """
CREATE TABLE users (position INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, cells TEXT NOT NULL);
CREATE TABLE states (position INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, cells TEXT NOT NULL);
CREATE TABLE log (
    position INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL, cells TEXT NOT NULL
);
CREATE INDEX log_of_user ON log (user_id, position);
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, tab TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL,
    cells TEXT NOT NULL, sent_at REAL
);
CREATE INDEX outbox_key ON outbox (tab, key);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
""",
    """
CREATE INDEX outbox_order ON outbox (tab, seq);
CREATE TABLE answers (
    operation TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL, answer TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (operation, key)
);
CREATE INDEX answers_at ON answers (at);
CREATE TABLE calls (kind TEXT NOT NULL, at REAL NOT NULL);
""",
)
"""Migrations from each version of the file to the next; ``user_version`` of a file counts the applied ones."""

Result = TypeVar("Result")
Work = Callable[[sqlite3.Connection], Any]
Job = tuple[Work, "asyncio.Future[Any]"]


class Store:
    """Runner of jobs on the connection, one group after the other.

    ``changed`` is called in the store's thread with the number of rows in the outbox,
    before the jobs that changed it get their results.
    """

    def __init__(self, directory: Path, changed: Callable[[int], None]) -> None:
        self.path = directory / FILE_NAME
        self._changed = changed
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._closing = False

    async def open(self) -> None:
        """Open or create the file; raises ``ConfigError`` if it is in use or invalid."""
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="sheets-store", daemon=True)
        self._thread.start()
        await opened

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run ``work`` in a transaction; its changes are on disk when this returns.

        An error of ``work`` undoes its changes and is raised again; raises ``OutOfResources``
        if the disk refuses the changes.
        """
        if self._closing:
            raise OutOfResources("the handler is being unloaded; nothing of this request is stored", retry_after=1.0)
        response: asyncio.Future[Result] = self._loop.create_future()
        self._jobs.put((work, response))
        try:
            return await response
        except sqlite3.Error as error:
            raise OutOfResources(
                f"{self.path} cannot be used: {error}; nothing of this request is stored; {_remedy(error)}",
                retry_after=5.0,
            ) from error

    def end(self) -> None:
        """Refuse new jobs; queued ones still run."""
        if not self._closing:
            self._closing = True
            self._jobs.put(None)

    async def close(self) -> None:
        """End the thread; returns when the file is closed."""
        self.end()
        await self._ended

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            lock = _lock(self.path)
            try:
                connection = _open(self.path)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            refusal = ConfigError(f"{self.path} cannot be written: {error.strerror}; data_dir must be writable")
            self._resolve([(opened, None, refusal)])
            return
        except BaseException as error:  # noqa: BLE001 - raised again by open()
            self._resolve([(opened, None, error)])
            return
        self._resolve([(opened, None, None)])
        try:
            self._work(connection)
        finally:
            connection.close()
            os.close(lock)
            self._resolve([(self._ended, None, None)])

    def _work(self, connection: sqlite3.Connection) -> None:
        last = -1
        while (job := self._jobs.get()) is not None:
            jobs: list[Job | None] = [job]
            while len(jobs) < GROUP and jobs[-1] is not None and not self._jobs.empty():
                jobs.append(self._jobs.get())
            last = self._transaction(connection, [job for job in jobs if job is not None], last)
            if jobs[-1] is None:
                return

    def _transaction(self, connection: sqlite3.Connection, jobs: list[Job], last: int) -> int:
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        try:
            before = connection.total_changes
            connection.execute("BEGIN")
            for work, response in jobs:
                outcomes.append((response, *_run_job(connection, work)))
            count = last
            if connection.total_changes != before or last < 0:
                (count,) = connection.execute("SELECT count(*) FROM outbox").fetchone()
            connection.execute("COMMIT")
            if count != last:
                self._changed(count)
                last = count
        except (sqlite3.Error, OSError) as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            outcomes = [(response, None, _as_sqlite(error)) for _, response in jobs]
        self._resolve(outcomes)
        return last

    def _resolve(self, outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
        def resolve() -> None:
            for future, result, error in outcomes:
                if future.done():
                    continue
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(resolve)


def _run_job(connection: sqlite3.Connection, work: Work) -> tuple[Any, BaseException | None]:
    """Run one job; a failed one changes nothing, and does not stop the others."""
    connection.execute("SAVEPOINT work")
    try:
        result = work(connection)
    except Exception as error:
        if not connection.in_transaction:
            # SQLite has rolled back the whole transaction, other jobs included: the disk is full, or fails.
            raise
        connection.execute("ROLLBACK TO work")
        connection.execute("RELEASE work")
        return None, error
    connection.execute("RELEASE work")
    return result, None


def _as_sqlite(error: Exception) -> sqlite3.Error:
    return error if isinstance(error, sqlite3.Error) else sqlite3.OperationalError(str(error))


def _lock(path: Path) -> int:
    """Lock the file against other workers for as long as the returned descriptor is open."""
    fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise ConfigError(
                    f"{path} is in use by another host's worker; use a separate data_dir for each host"
                ) from None
            time.sleep(0.05)
        else:
            return fd


def _open(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(STEPS):
            raise ConfigError(
                f"{path} was created by a later version of sheets ({version}); this one reads {len(STEPS)}"
            )
        if version < len(STEPS):
            steps = " ".join(STEPS[version:])
            connection.executescript(f"BEGIN; {steps} PRAGMA user_version={len(STEPS)}; COMMIT;")
    except sqlite3.Error as error:
        connection.close()
        raise ConfigError(f"{path} cannot be opened: {error}; {_remedy(error)}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _remedy(error: sqlite3.Error) -> str:
    """Return what to do about a file that cannot be opened: only a damaged one must be moved away."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or "No space left" in str(error):
        return "free space on its disk; the rows in it are safe"
    if code == sqlite3.SQLITE_IOERR:
        return "free space on its disk, or check the disk; keep the file, which has the rows that wait"
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY):
        return "let the user of the host write the file and its directory"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "stop the other process that uses it"
    return "move it away, or restore it from a backup"
