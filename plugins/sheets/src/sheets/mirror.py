"""What is read: the copy of users and states, and the end of the log, each not older than it says.

A burst of reads costs one call: who needs a newer copy waits for the one read that is
under way. While Google does not answer, the copy is served with its true age.
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
"""Seconds for which a newer copy is waited for, where one is there already."""


class _Copy:
    """When something was read last, by one read at a time."""

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
        # Who leaves does not take the read away from the others.
        await asyncio.wait({task}, timeout=PATIENCE if self.at is not None else None)
        trouble = task.result() if task.done() else None
        if self.at is None:
            assert trouble is not None, "a read that went well sets the time"
            raise trouble
        return time.monotonic() - self.at

    async def close(self) -> None:
        """End a read that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _renew(self) -> HostError | None:
        begun = time.monotonic()
        try:
            await self._read()
        except (BookError, Drift) as error:
            self._failures += 1
            wait = backoff(self._failures, self._settings.retry_first, self._settings.retry_longest)
            self._retry_at = time.monotonic() + wait
            trouble = error if isinstance(error, BookError) else BookError("refused", str(error))
            self._log.warning("reading failed, the copy from before is served: %s", trouble.message)
            return trouble.for_clients()
        else:
            self._failures, self._retry_at = 0, 0.0
            self.at = begun
            return None
        finally:
            self._task = None


class Mirror:
    """Serves reads of a spreadsheet; ``remote`` as in the writer."""

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
        """Take up the copy that an earlier worker has left."""
        text = await self._store.run(lambda connection: meta(connection, "read_at"))
        if text is not None:
            # Of a clock that was set back nothing is known.
            age = time.time() - float(text)
            self._rows.at = time.monotonic() - age if age >= 0 else None

    async def close(self) -> None:
        """End reads that are under way."""
        await self._rows.close()
        await self._log_end.close()

    @property
    def age(self) -> float | None:
        """The age of the copy of users and states; None if there is none."""
        return None if self._rows.at is None else time.monotonic() - self._rows.at

    async def fresh(self) -> float:
        """Return the age of users and states, which are read first if they are too old; raises ``HostError``."""
        return await self._rows.fresh()

    async def tail(self, user_id: str | None, limit: int) -> tuple[list[Cells], float]:
        """Return the newest rows of the log, those that wait included, and the age; raises ``HostError``."""
        age = await self._log_end.fresh()
        waiting = await self._store.run(lambda connection: outbox.newest_rows(connection, self._size))
        known = {row["row_key"] for row in self._tail}
        rows = [*self._tail, *(row for row in waiting if row["row_key"] not in known)]
        return [row for row in rows if user_id is None or as_text(row["user_id"]) == user_id][-limit:], age

    def written(self, rows: list[Cells]) -> None:
        """Take rows that have arrived at the end of the log."""
        if self._log_end.at is not None:
            known = {row["row_key"] for row in self._tail}
            self._tail.extend(row for row in rows if row["row_key"] not in known)

    async def _read_rows(self) -> None:
        async with self._remote:
            found = await self._book.rows(KEYED)
            drift = None
            for tab, rows in found.items():
                if isinstance(rows, Drift):
                    drift = rows
                    continue
                twice = await self._store.run(partial(self._workbook.take, tab=tab, rows=rows))
                if twice:
                    self._log.warning(
                        "%s: %d keys stand in two rows, the first counts: %s", tab, len(twice), ", ".join(twice[:5])
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
