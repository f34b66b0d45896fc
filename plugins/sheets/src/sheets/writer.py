"""Writer from the outbox to the spreadsheet: in batches, within the quota, each row exactly once.

An entry is marked as sent before it is sent, and removed after the response. After a
request without a response the entry is looked up by its key; it is sent again only if it
is missing in the spreadsheet and Google's time limit for a request has passed: by then
the request has either taken effect or never will.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sheets import outbox
from sheets.book import Book, BookError, Effect, Look
from sheets.outbox import Change, Entry
from sheets.quota import backoff
from sheets.schema import Cells, Drift
from sheets.settings import Settings
from sheets.store import Store
from sheets.workbook import Workbook, timestamp

BATCH_BYTES = 1_000_000
"""Maximum bytes of one call's rows; Google recommends 2 MB at most for a request."""
WAKE_AFTER = 5.0
"""Seconds after which the host starts a worker again for pending rows, if the last call did not fail."""


@dataclass
class Progress:
    """Progress of the writer, for ``status``."""

    last_write: str | None = None
    written: int = 0
    """Rows and changes since the start of the worker."""
    last_error: str | None = None
    last_error_at: str | None = None
    failures: int = 0
    """Consecutive failures; 0 after a success."""
    retry_at: float | None = None
    """Time of the next attempt on the monotonic clock."""


class Unsettled(Exception):
    """A request without a response may still take effect; after ``wait`` seconds it cannot any more."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"a response was lost; after at most {wait:.0f} s it is certain whether the rows arrived")
        self.wait = wait


class Writer:
    """Owner of the path from the outbox to the book.

    ``remote`` is held during each exchange with Google and the change of the store after
    it, so that older rows never replace newer ones. ``written`` is called with the rows of
    the log that have arrived. ``clock`` is the wall clock, because the time of a request
    must be valid in the next worker, too.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        workbook: Workbook,
        book: Book,
        remote: asyncio.Lock,
        log: logging.Logger,
        written: Callable[[list[Cells]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.progress = Progress()
        self._settings = settings
        self._store = store
        self._workbook = workbook
        self._book = book
        self._remote = remote
        self._log = log
        self._written = written
        self._clock = clock
        self._waiting = 0
        self._work = asyncio.Event()
        self._full = asyncio.Event()
        self._hurry = asyncio.Event()
        self._draining = False
        self._idle: list[asyncio.Future[None]] = []
        """Waiters for the end of all writes, or for a failed attempt."""

    def pending(self, count: int) -> None:
        """Set the number of entries in the outbox."""
        self._waiting = count
        if count:
            self._work.set()
        else:
            self._work.clear()
            self._wake_idle()
        if count >= self._settings.batch_rows:
            self._full.set()
        else:
            self._full.clear()

    @property
    def retry_in(self) -> float | None:
        """Seconds until the next attempt after a failure, or None."""
        retry_at = self.progress.retry_at
        return None if retry_at is None else max(0.0, retry_at - time.monotonic())

    @property
    def wake_after(self) -> float:
        """Seconds after which a new worker should continue, if this one ends."""
        retry_at = self.progress.retry_at
        return WAKE_AFTER if retry_at is None else max(WAKE_AFTER, retry_at - time.monotonic())

    async def run(self) -> None:
        """Write pending entries as they come, until :meth:`drain`."""
        while not (self._draining and not self._waiting):
            await self._work_or_hurry()
            if not self._waiting:
                self._hurry.clear()
                continue
            if not self.progress.failures and not self._idle:
                await self._pause(self._settings.flush_after, self._full)
            self._hurry.clear()
            wait = await self._try()
            if wait is None:
                continue
            self._wake_idle()
            if self._draining:
                return
            self.progress.retry_at = time.monotonic() + wait
            await self._pause(wait)
            self.progress.retry_at = None

    async def flush(self) -> None:
        """Write now; return when the outbox is empty, or an attempt has failed."""
        if not self._waiting:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(done)
        self._hurry.set()
        await done

    def drain(self) -> None:
        """Make :meth:`run` write pending entries without delay and end."""
        self._draining = True
        self._hurry.set()

    async def cycle(self) -> None:
        """Write one batch; raises the error of a part that could not be written, after the rest was written."""
        async with self._remote:
            entries = await self._store.run(
                lambda connection: outbox.batch(connection, self._settings.batch_rows, BATCH_BYTES)
            )
            try:
                await self._write_batch(entries)
            finally:
                if any(entry.tab != "log" for entry in entries):
                    await self._store.run(outbox.put_back)

    async def _write_batch(self, entries: list[Entry]) -> None:
        log = [entry for entry in entries if entry.tab == "log"]
        changes = [entry for entry in entries if entry.tab != "log"]
        keys = {entry.tab: True for entry in changes}
        if log:
            keys["log"] = any(entry.doubtful for entry in log)
        if not keys:
            return
        # Before the look, because such a request may take effect during it.
        unsettled = self._unsettled(entries)
        looks = await self._book.look(keys)
        troubles: list[Exception] = []
        for write, part in ((self._append_log, log), (self._write_changes, changes)):
            try:
                await write(part, looks, unsettled)
            except (BookError, Drift, Unsettled) as error:
                troubles.append(error)
        if troubles:
            raise troubles[0]

    async def _append_log(
        self, entries: list[Entry], looks: dict[str, Look | Drift], unsettled: dict[int, float]
    ) -> None:
        if not entries:
            return
        look = _seen(looks["log"])
        if look.rows is not None:
            arrived = [entry for entry in entries if entry.key in look.rows]
            if arrived:
                await self._arrived(arrived, log=[entry.cells for entry in arrived])
            entries = [entry for entry in entries if entry.key not in look.rows]
            # All later rows wait with the one that may still arrive, so that their order stays.
            _check_settled(entries, unsettled)
        if entries:
            tab = self._workbook.tabs["log"]
            rows = [entry.cells for entry in entries]
            await self._send(entries, self._book.append(tab, look.layout, rows))
            await self._arrived(entries, log=rows)

    async def _write_changes(
        self, entries: list[Entry], looks: dict[str, Look | Drift], unsettled: dict[int, float]
    ) -> None:
        drifts = [look for look in looks.values() if isinstance(look, Drift)]
        entries = [entry for entry in entries if not isinstance(looks[entry.tab], Drift)]
        _check_settled(entries, unsettled)
        updates, deletes, news = [], [], []
        for change in outbox.collapse(entries):
            row = (_seen(looks[change.tab]).rows or {}).get(change.key)
            if change.kind == "delete":
                deletes.append((change, row))
            elif row is not None:
                updates.append((change, row))
            else:
                news.append(change)
        await self._update(updates, looks)
        await self._delete(deletes)
        for name in ("users", "states"):
            await self._add(name, [change for change in news if change.tab == name], looks)
        if drifts:
            raise drifts[0]

    async def _update(self, updates: list[tuple[Change, int]], looks: dict[str, Look | Drift]) -> None:
        rows = [(_seen(looks[change.tab]).layout, row, change.cells) for change, row in updates]
        if rows:
            await self._write([change for change, _ in updates], self._book.update(rows))

    async def _delete(self, deletes: list[tuple[Change, int | None]]) -> None:
        absent = [change for change, row in deletes if row is None]
        if absent:
            await self._arrived(absent)
        tabs = self._workbook.tabs
        rows = [(tabs[change.tab], row) for change, row in deletes if row is not None]
        if rows:
            await self._write([change for change, row in deletes if row is not None], self._book.delete(rows))

    async def _add(self, name: str, changes: list[Change], looks: dict[str, Look | Drift]) -> None:
        if not changes:
            return
        keys = [change.key for change in changes]
        # Whole rows, so that a change of a row that a person has deleted restores it.
        whole = await self._store.run(lambda connection: [self._workbook.get(connection, name, key) for key in keys])
        rows = [row if row is not None else change.cells for row, change in zip(whole, changes, strict=True)]
        await self._write(changes, self._book.append(self._workbook.tabs[name], _seen(looks[name]).layout, rows))

    async def _write(self, changes: list[Change], call: Coroutine[Any, Any, None]) -> None:
        await self._send(changes, call)
        await self._arrived(changes)

    async def _send(self, items: Sequence[Entry | Change], call: Coroutine[Any, Any, None]) -> None:
        """Mark the items as sent, and send them; mark them by the known effect after a failure."""
        seqs = _seqs(items)
        try:
            # Wait for the quota first, so that the recorded time is the time of the request.
            await self._book.turn()
            await self._store.run(lambda connection: outbox.mark(connection, seqs, self._clock()))
            await call
        except BookError as error:
            known = {Effect.NONE: None, Effect.ANSWERED: outbox.ANSWERED, Effect.UNKNOWN: self._clock()}[error.effect]
            await self._store.run(lambda connection: outbox.mark(connection, seqs, known))
            raise
        finally:
            call.close()

    async def _arrived(self, items: Sequence[Entry | Change], log: list[Cells] | None = None) -> None:
        seqs = _seqs(items)
        await self._store.run(lambda connection: outbox.done(connection, seqs))
        self.progress.last_write = timestamp()
        self.progress.written += len(seqs)
        if log:
            self._written(log)

    def _unsettled(self, entries: Sequence[Entry]) -> dict[int, float]:
        """Return by sequence number the seconds for which a sent entry may still take effect."""
        now, settle = self._clock(), self._settings.settle
        sent = {entry.seq: entry.sent_at for entry in entries if entry.sent_at is not None and entry.sent_at > 0}
        # A clock that was set back must not delay the rows for longer than ``settle``.
        return {seq: min(at + settle - now, settle) for seq, at in sent.items() if at + settle > now}

    async def _try(self) -> float | None:
        """Write one batch; return None, or the seconds to wait after a failure."""
        progress = self.progress
        try:
            await self.cycle()
        except Unsettled as error:
            # The rows are looked up again before that time, with growing pauses.
            self._note(str(error), logging.INFO)
            progress.failures += 1
            return min(error.wait, self._backoff())
        except Drift as error:
            self._note(str(error))
        except BookError as error:
            self._note(error.message)
            progress.failures += 1
            return max(self._backoff(), error.retry_after or 0.0)
        except Exception as error:  # noqa: BLE001 - a defect or a full disk: the rows are safe, the writer must not end
            self._log.exception("writing failed")
            self._note(f"{type(error).__name__}: {error}")
        else:
            progress.failures = 0
            return None
        progress.failures += 1
        return self._backoff()

    def _backoff(self) -> float:
        return backoff(self.progress.failures, self._settings.retry_first, self._settings.retry_longest)

    def _note(self, text: str, level: int = logging.WARNING) -> None:
        if text != self.progress.last_error or not self.progress.failures:
            self._log.log(level, "%d rows pending: %s", self._waiting, text)
        self.progress.last_error, self.progress.last_error_at = text, timestamp()

    async def _work_or_hurry(self) -> None:
        if not self._draining:
            await _first(self._work, self._hurry)

    async def _pause(self, seconds: float, also: asyncio.Event | None = None) -> None:
        """Wait for ``seconds``, or until a flush, a drain or ``also``."""
        if not self._draining:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await _first(self._hurry, *([also] if also is not None else []))

    def _wake_idle(self) -> None:
        idle, self._idle = self._idle, []
        for future in idle:
            if not future.done():
                future.set_result(None)


def _seen(look: Look | Drift) -> Look:
    if isinstance(look, Drift):
        raise look
    return look


def _check_settled(entries: Sequence[Entry], unsettled: dict[int, float]) -> None:
    """Raise :class:`Unsettled` while one of the entries may still take effect."""
    waits = [unsettled[entry.seq] for entry in entries if entry.seq in unsettled]
    if waits:
        raise Unsettled(max(waits))


def _seqs(items: Sequence[Any]) -> list[int]:
    return [seq for item in items for seq in (item.seqs if isinstance(item, Change) else (item.seq,))]


async def _first(*events: asyncio.Event) -> None:
    """Return when one of the events is set."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
