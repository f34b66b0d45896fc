"""Copy of users and states and of the end of the log, for reads, with its age.

A burst of reads costs one call: all requests that need a newer copy wait for the same
read. While Google does not respond, the old copy is served with its true age.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from handler_host.plugin import HostError
from sheets import outbox
from sheets.book import Book, BookError
from sheets.quota import backoff
from sheets.schema import Cells, Drift, as_text
from sheets.settings import Settings
from sheets.store import Store
from sheets.workbook import KEYED, Workbook, meta, note

PATIENCE = 5.0
"""Seconds to wait for a newer copy before the old one is served."""


class _Copy:
    """Time of the last read, with at most one read in progress."""

    def __init__(self, read: Callable[[], Coroutine[Any, Any, None]], settings: Settings, log: logging.Logger) -> None:
        self.at: float | None = None
        """On the monotonic clock; None: never."""
        self._read = read
        self._settings = settings
        self._log = log
        self._task: asyncio.Task[HostError | None] | None = None
        self._failures = 0
        self._retry_at = 0.0

    async def fresh(self) -> float:
        """Return the age in seconds, after a read if it was too old; raises ``HostError`` if it was never read."""
        now = time.monotonic()
        if self.at is not None and (now - self.at <= self._settings.cache_age or now < self._retry_at):
            return now - self.at
        if self._task is None:
            self._task = asyncio.create_task(self._renew(), name="sheets read")
        task = self._task
        # A cancelled request must not cancel the read, which other requests wait for.
        await asyncio.wait({task}, timeout=PATIENCE if self.at is not None else None)
        trouble = task.result() if task.done() else None
        if self.at is None:
            assert trouble is not None, "a successful read sets the time"
            raise trouble
        return time.monotonic() - self.at

    async def close(self) -> None:
        """Cancel the read in progress."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _renew(self) -> HostError | None:
        started_at = time.monotonic()
        try:
            await self._read()
        except (BookError, Drift) as error:
            self._failures += 1
            wait = backoff(self._failures, self._settings.retry_first, self._settings.retry_longest)
            self._retry_at = time.monotonic() + wait
            trouble = error if isinstance(error, BookError) else BookError("refused", str(error))
            self._log.warning("read failed, the old copy is served: %s", trouble.message)
            return trouble.for_clients()
        else:
            self._failures, self._retry_at = 0, 0.0
            self.at = started_at
            return None
        finally:
            self._task = None


class Mirror:
    """Reader of a spreadsheet; ``remote`` is the lock that the writer uses, too."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        workbook: Workbook,
        book: Book,
        remote: asyncio.Lock,
        log: logging.Logger,
    ) -> None:
        self._store = store
        self._workbook = workbook
        self._book = book
        self._remote = remote
        self._log = log
        self._size = settings.log_cache
        self._tail: deque[Cells] = deque(maxlen=settings.log_cache)
        self._rows = _Copy(self._read_rows, settings, log)
        self._log_end = _Copy(self._read_tail, settings, log)

    async def open(self) -> None:
        """Load the copy of an earlier worker."""
        text = await self._store.run(lambda connection: meta(connection, "read_at"))
        if text is not None:
            # If the clock was set back, the age is unknown.
            age = time.time() - float(text)
            self._rows.at = time.monotonic() - age if age >= 0 else None

    async def close(self) -> None:
        """Cancel reads in progress."""
        await self._rows.close()
        await self._log_end.close()

    @property
    def age(self) -> float | None:
        """Age of the copy of users and states in seconds; None without a copy."""
        return None if self._rows.at is None else time.monotonic() - self._rows.at

    async def fresh(self) -> float:
        """Read users and states if the copy is too old, and return its age; raises ``HostError``."""
        return await self._rows.fresh()

    async def tail(self, user_id: str | None, limit: int) -> tuple[list[Cells], float]:
        """Return the newest rows of the log, pending ones included, and the age; raises ``HostError``."""
        age = await self._log_end.fresh()
        waiting = await self._store.run(lambda connection: outbox.newest_rows(connection, self._size))
        known = {row["row_key"] for row in self._tail}
        rows = [*self._tail, *(row for row in waiting if row["row_key"] not in known)]
        return [row for row in rows if user_id is None or as_text(row["user_id"]) == user_id][-limit:], age

    def written(self, rows: list[Cells]) -> None:
        """Add rows that were written to the end of the log."""
        if self._log_end.at is not None:
            known = {row["row_key"] for row in self._tail}
            self._tail.extend(row for row in rows if row["row_key"] not in known)

    async def _read_rows(self) -> None:
        async with self._remote:
            tabs = await self._book.rows(KEYED)
            drift = None
            for tab, rows in tabs.items():
                if isinstance(rows, Drift):
                    drift = rows
                    continue
                duplicates = await self._store.run(partial(self._workbook.replace, tab=tab, rows=rows))
                if duplicates:
                    self._log.warning(
                        "%s: %d duplicate keys, the first row of each counts: %s",
                        tab,
                        len(duplicates),
                        ", ".join(duplicates[:5]),
                    )
            if drift is not None:
                raise drift
            read_at = str(time.time())
            await self._store.run(lambda connection: note(connection, "read_at", read_at))

    async def _read_tail(self) -> None:
        async with self._remote:
            rows = await self._book.tail(self._size)
            self._tail.clear()
            self._tail.extend(rows)
