"""Any history of the outbox ends with each row in the spreadsheet once, in order, and each state at its last value.

The writer and the file are the real ones; the spreadsheet is a model of one, whose
calls fail before or after they take effect, take effect late, or see the worker die.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sheets import outbox
from sheets.book import BookError, Effect, Look
from sheets.repeats import once
from sheets.schema import Cells, Layout, Tab
from sheets.settings import Settings, read_settings
from sheets.store import Store
from sheets.types import LogAppend
from sheets.workbook import Workbook
from sheets.writer import Unsettled, Writer
from tests.integration.plugins.sheets.defaults import DEFAULTS

SETTLE = 100.0
Outcome = Literal[
    "ok", "refused", "failed", "failed after", "lost", "lost after", "lost and late", "dies before", "dies after"
]
OUTCOMES: list[Outcome] = [
    *("ok", "refused", "failed", "failed after", "lost", "lost after", "lost and late", "dies before", "dies after")
]


class Died(BaseException):
    """The worker was killed in this moment."""


class Model:
    """A spreadsheet, and what becomes of the next calls that write into it."""

    def __init__(self, tabs: Mapping[str, Tab]) -> None:
        self.now = 1e9
        self.outcomes: list[Outcome] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        """Runs during a call."""
        self.tables: dict[str, list[Cells]] = {name: [] for name in tabs}
        self._tabs = tabs
        self._late: list[tuple[float, Callable[[], None]]] = []

    def passes(self, seconds: float) -> None:
        self.now += seconds
        due = [effect for at, effect in self._late if at <= self.now]
        self._late = [(at, effect) for at, effect in self._late if at > self.now]
        for effect in due:
            effect()

    async def look(self, keys: Mapping[str, bool]) -> dict[str, Look]:
        await self._let_others_work()
        return {
            name: Look(
                Layout.of(self._tabs[name], self._tabs[name].columns),
                {self._tabs[name].key_of(row): number for number, row in reversed(list(enumerate(self.tables[name])))},
            )
            for name in keys
        }

    async def rows(self, tabs: Sequence[str]) -> dict[str, list[Cells]]:
        return {name: list(self.tables[name]) for name in tabs}

    async def turn(self) -> None:
        await self._let_others_work()

    async def append(self, tab: Tab, layout: Layout, rows: Sequence[Cells]) -> None:
        rows = [dict(row) for row in rows]
        await self._happens(lambda: self.tables[tab.name].extend(rows))

    async def update(self, changes: Sequence[tuple[Layout, int, Cells]]) -> None:
        changes = list(changes)

        def update() -> None:
            for layout, number, cells in changes:
                self.tables[layout.tab.name][number].update(cells)

        await self._happens(update)

    async def delete(self, rows: Sequence[tuple[Tab, int]]) -> None:
        rows = list(rows)

        def delete() -> None:
            for tab, number in sorted(rows, key=lambda row: -row[1]):
                del self.tables[tab.name][number]

        await self._happens(delete)

    async def _let_others_work(self) -> None:
        if self.meanwhile is not None:
            await self.meanwhile()

    async def _happens(self, effect: Callable[[], None]) -> None:
        await self._let_others_work()
        outcome = self.outcomes.pop(0) if self.outcomes else "ok"
        if outcome in ("ok", "failed after", "lost after", "dies after"):
            effect()
        if outcome == "lost and late":
            self._late.append((self.now + SETTLE * 0.9, effect))
        if outcome.startswith("dies"):
            raise Died
        if outcome == "refused":
            raise BookError("limit", outcome)
        if outcome.startswith("failed"):
            raise BookError("overload", outcome, effect=Effect.ANSWERED)
        if outcome.startswith("lost"):
            raise BookError("timeout", outcome, effect=Effect.UNKNOWN)


class Worker:
    """One generation: the file, a workbook, a writer."""

    def __init__(self, directory: Path, configuration: Settings, model: Model) -> None:
        self.pending = 0
        self.store = Store(directory, self._count)
        self.workbook = Workbook(configuration.tabs, remote=True)
        log = logging.getLogger("histories")
        lock = asyncio.Lock()
        book: Any = model
        self.writer = Writer(
            configuration, self.store, self.workbook, book, lock, log, lambda _: None, clock=lambda: model.now
        )

    def _count(self, count: int) -> None:
        self.pending = count

    async def cycle(self) -> bool:
        """Write one batch; return whether the worker lives."""
        try:
            await self.writer.cycle()
        except (BookError, Unsettled):
            pass
        except Died:
            return False
        return True


class History:
    """What was asked and acknowledged, and what the spreadsheet has to say in the end."""

    def __init__(self, directory: Path) -> None:
        self.configuration = read_settings({**DEFAULTS, "settle": SETTLE, "batch_rows": 4}, {})
        self.model = Model(self.configuration.tabs)
        self.directory = directory
        self.log: list[str] = []
        self.states: dict[str, Any] = {}
        self.users: dict[str, str] = {}
        self.keyed: dict[int, list[str]] = {}
        self.worker = Worker(directory, self.configuration, self.model)

    async def run(self, steps: list[tuple[Any, ...]]) -> None:
        await self._open()
        for step in steps:
            await self.step(*step)
        self.model.outcomes.clear()
        for _ in range(200):
            if not self.worker.pending:
                break
            assert await self.worker.cycle()
            self.model.passes(SETTLE / 4)
        assert self.worker.pending == 0, "something waits for ever"
        self.model.passes(SETTLE)
        await self.worker.store.close()

    async def step(self, what: str, *arguments: Any) -> None:
        workbook, run = self.worker.workbook, self.worker.store.run
        match what, *arguments:
            case "append", count:
                self.log += await run(lambda c: workbook.append(c, [{"event": str(number)} for number in range(count)]))
            case "append with key", number:
                request = LogAppend(event=f"keyed {number}", key=str(number))
                keys = await run(
                    lambda c: once(c, "log.append", request, lambda: workbook.append(c, [{"event": request.event}]))
                )
                if number not in self.keyed:
                    self.log += keys
                assert self.keyed.setdefault(number, keys) == keys
            case "set", name, value:
                await run(lambda c: workbook.set_state(c, "", name, value))
                self.states[name] = value
            case "increment", name:
                self.states[name] = await run(lambda c: workbook.increment(c, "", name, 1))
            case "delete", name:
                await run(lambda c: workbook.delete_state(c, "", name))
                self.states.pop(name, None)
            case "user", name:
                _, created = await run(lambda c: workbook.register(c, {"user_id": name, "status": "new"}))
                assert created == (name not in self.users)
                self.users.setdefault(name, "new")
            case "status", name, status:
                row = await run(lambda c: workbook.change_user(c, name, lambda _: {"status": status}))
                assert (row is None) == (name not in self.users)
                if row is not None:
                    self.users[name] = status
            case _:
                await self._happens(what, *arguments)

    async def _happens(self, what: str, *arguments: Any) -> None:
        workbook, run = self.worker.workbook, self.worker.store.run
        match what, *arguments:
            case "read", tab:
                rows = (await self.worker.writer._book.rows([tab]))[tab]
                assert not isinstance(rows, Exception)
                await run(lambda c: workbook.replace(c, tab, rows))
            case "time", seconds:
                self.model.passes(seconds)
            case "write", outcomes, meanwhile:
                self.model.outcomes = list(outcomes)
                waiting = list(meanwhile)

                async def others() -> None:
                    if waiting:
                        await self.step(*waiting.pop(0))

                self.model.meanwhile = others
                lives = await self.worker.cycle()
                self.model.meanwhile = None
                if not lives:
                    await self._next_worker()
            case ("unload",):
                await self._next_worker()

    async def _next_worker(self) -> None:
        await self.worker.store.close()
        self.worker = Worker(self.directory, self.configuration, self.model)
        await self._open()

    async def _open(self) -> None:
        await self.worker.store.open()
        await self.worker.store.run(outbox.put_back)

    def check(self) -> None:
        tables = self.model.tables
        assert [row["row_key"] for row in tables["log"]] == self.log
        assert {row["name"]: row["value"] for row in tables["states"]} == self.states
        assert len(tables["states"]) == len(self.states)
        assert {row["user_id"]: row["status"] for row in tables["users"]} == self.users
        assert len(tables["users"]) == len(self.users)


names = st.sampled_from(["a", "b"])
changes = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 6)),
    st.tuples(st.just("append with key"), st.integers(1, 3)),
    st.tuples(st.just("set"), names, st.integers(0, 3)),
    st.tuples(st.just("increment"), names),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("user"), names),
    st.tuples(st.just("status"), names, st.sampled_from(["new", "approved", "blocked"])),
)
steps = st.one_of(
    changes,
    st.tuples(st.just("read"), st.sampled_from(["users", "states"])),
    st.tuples(st.just("time"), st.sampled_from([1.0, SETTLE / 2, SETTLE])),
    st.tuples(st.just("write"), st.lists(st.sampled_from(OUTCOMES), max_size=4), st.lists(changes, max_size=4)),
    st.tuples(st.just("unload")),
)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(history=st.lists(steps, max_size=25))
@example(history=[("append", 3), ("write", ["lost and late"], []), ("append", 1), ("write", [], []), ("time", SETTLE)])
@example(history=[("append", 3), ("write", ["dies after"], []), ("append", 1), ("write", [], []), ("write", [], [])])
@example(
    history=[("set", "a", 1), ("write", ["lost and late"], []), ("set", "a", 2), ("write", [], []), ("time", SETTLE)]
)
@example(
    history=[
        ("set", "a", 1),
        ("write", [], []),
        ("delete", "a"),
        ("write", ["lost"], []),
        ("set", "a", 2),
        ("write", [], []),
    ]
)
@example(history=[("set", "a", 1), ("write", ["ok"], [("delete", "a"), ("set", "a", 2), ("delete", "a")])])
@example(history=[("set", "a", 1), ("write", [], []), ("set", "a", 2), ("write", ["ok"], [("delete", "a")])])
def test_each_row_arrives_once_and_each_state_is_the_last(
    history: list[tuple[Any, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_run(Path(directory), history))


async def _run(directory: Path, history: list[tuple[Any, ...]]) -> None:
    told = History(directory)
    await told.run(history)
    told.check()
