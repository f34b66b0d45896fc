"""The screen of ``handler-host top``, by textual. Only the admin API is asked; nothing is kept on disk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from handler_host.cli.client import Client
from handler_host.cli.failure import UNREACHABLE, Failure
from handler_host.cli.receipts import of_load, of_pin, of_unload
from handler_host.cli.render import visible
from handler_host.cli.top_table import Column, bars, cell, columns_for, heading, memory_line

STYLES = {
    "active": "green",
    "idle": "green",
    "waiting": "yellow",
    "activating": "yellow",
    "draining": "yellow",
    "cold": "dim",
}
"""Of the states; all others are problems, and red. Without colours the words are enough."""
HISTORY = 1000


class Screen(App[None]):
    """The live table; ``failure`` is what has ended it, if it was not a key.

    A host that goes away is waited for: what was last seen stays, and the last line says so.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #memory, #bars, #said { height: 1; }
    DataTable { height: 1fr; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
    DataTable > .datatable--header { background: ansi_default; color: ansi_default; text-style: bold underline; }
    DataTable > .datatable--cursor, DataTable:focus > .datatable--cursor {
        background: ansi_default; color: ansi_default; text-style: reverse;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "load", "load"),
        Binding("u", "unload('drain')", "unload"),
        Binding("U", "unload('force')", "force", key_display="U"),
        Binding("p", "pin", "pin"),
        Binding("q", "quit", "quit"),
        Binding("r", "reload", show=False),  # the others fill 40 columns
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("j", "move(1)", show=False),
        Binding("k", "move(-1)", show=False),
    ]

    def __init__(self, client: Client, interval: float) -> None:
        # The terminal's own colours: light or dark is its user's choice.
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self.title = "handler-host"
        self.failure: Failure | None = None
        self._client = client
        self._interval = interval
        self._history: deque[int] = deque(maxlen=HISTORY)
        self._memory: dict[str, Any] | None = None
        self._handlers: list[dict[str, Any]] = []
        self._columns: list[Column] = []
        self._looking = asyncio.Lock()
        self._steering: set[asyncio.Task[None]] = set()

    def compose(self) -> ComposeResult:
        """Lay the screen out (textual)."""
        yield Static(id="memory", markup=False)
        yield Static(id="bars", markup=False)
        yield DataTable[Text](cursor_type="row", cell_padding=1)
        yield Static(id="said", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    async def on_mount(self) -> None:
        """Look for the first time, and again and again (textual)."""
        self._say("arrows, j and k select; r reloads")
        self.set_interval(self._interval, self._look_again)
        await self._look()

    def on_resize(self) -> None:
        """Choose the columns anew (textual)."""
        self._show()

    async def on_unmount(self) -> None:
        """Leave what is under way to the host; it answers to nobody (textual)."""
        for task in self._steering:
            task.cancel()
        await asyncio.gather(*self._steering, return_exceptions=True)

    def action_move(self, rows: int) -> None:
        """Select another handler."""
        table = self._table
        table.move_cursor(row=table.cursor_row + rows)

    def action_load(self) -> None:
        """Load the handler that is selected."""
        self._steer("is being activated", "load", of_load)

    def action_unload(self, mode: str) -> None:
        """Unload the handler that is selected."""
        self._steer("is being unloaded", "unload", of_unload, mode=mode)

    def action_reload(self) -> None:
        """Unload it, so that its next dispatch runs what is installed."""
        self._steer("is being reloaded", "reload", of_unload)

    def action_pin(self) -> None:
        """Keep it from idleness and eviction, or let it go again."""
        selected = self._selected()
        pinned = any(handler["name"] == selected and handler["pin"] for handler in self._handlers)
        self._steer("is being unpinned" if pinned else "is being pinned", "unpin" if pinned else "pin", of_pin)

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one(DataTable)

    def _selected(self) -> str | None:
        row = self._table.cursor_row
        return self._handlers[row]["name"] if 0 <= row < len(self._handlers) else None

    def _steer(self, meanwhile: str, command: str, shown: Callable[[dict[str, Any]], str], **query: object) -> None:
        name = self._selected()
        if name is None:
            self._say("there is no handler")
            return
        self._say(f"{visible(name)}: {meanwhile}")
        task = asyncio.create_task(self._steered(name, command, shown, query), name=f"{command} of {name}")
        self._steering.add(task)
        task.add_done_callback(self._steering.discard)

    async def _steered(
        self, name: str, command: str, shown: Callable[[dict[str, Any]], str], query: dict[str, object]
    ) -> None:
        try:
            receipt = await asyncio.to_thread(self._client.admin, "POST", "handlers", name, command, **query)
        except Failure as failure:
            self._say(str(failure))
            return
        # First seen, then said: the next key acts on what the table shows.
        await self._look()
        self._say(shown({"handler": name} | receipt))

    async def _look_again(self) -> None:
        """Look, unless a look takes longer than the interval."""
        if not self._looking.locked():
            await self._look()

    async def _look(self) -> None:
        """Ask the host; what is shown then is not older than this call."""
        async with self._looking:
            try:
                memory = await asyncio.to_thread(self._client.admin, "GET", "memory")
                response = await asyncio.to_thread(self._client.admin, "GET", "handlers")
            except Failure as failure:
                if failure.status != UNREACHABLE:  # another token, for one: nothing will be better by itself
                    self.failure = failure
                    self.exit()
                    return
                self._say(f"{failure}; trying again in {self._interval:g} s")
                self._memory = None
            else:
                if self._memory is None and self._history:
                    self._say("the host is there again")
                self._memory, self._handlers = memory, response["handlers"]
                self._history.append(memory["used"])
                self._show()

    def _show(self) -> None:
        if self._memory is None:
            return
        width = self.size.width
        self.query_one("#memory", Static).update(memory_line(self._memory, width))
        self.query_one("#bars", Static).update(bars(self._history, self._memory["limit"], width))
        table, selected = self._table, self._table.cursor_row
        name = self._shown_name(selected)
        names = [handler["name"] for handler in self._handlers]
        # The table pads each column by one on both sides, and has its scroll bar.
        columns = columns_for(width - 3, names)
        if columns != self._columns or names != [key.value for key in table.rows]:
            self._columns = columns
            table.clear(columns=True)
            for column in columns:
                table.add_column(heading(column), key=column.title, width=column.width)
            for handler in self._handlers:
                table.add_row(*(self._cell(column, handler) for column in columns), key=handler["name"])
            if name in names:
                table.move_cursor(row=names.index(name))
            return
        for handler in self._handlers:
            for column in columns:
                table.update_cell(handler["name"], column.title, self._cell(column, handler))

    def _shown_name(self, row: int) -> str | None:
        keys = [key.value for key in self._table.rows]
        return keys[row] if 0 <= row < len(keys) else None

    def _cell(self, column: Column, handler: dict[str, Any]) -> Text:
        style = STYLES.get(handler["state"], "red") if column.title == "STATE" else ""
        return Text(cell(column, handler), style=style)

    def _say(self, text: str) -> None:
        self.query_one("#said", Static).update(visible(text).replace("\n", " "))
