"""The screen of ``handler-host top``, made with textual. It uses only the admin API and writes no files."""

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
from handler_host.cli.receipts import describe_load, describe_pin, describe_unload
from handler_host.cli.render import sanitize
from handler_host.cli.top_table import Column, bars, cell, columns_for, heading, may_have_several, memory_line

STATE_STYLES = {
    "active": "green",
    "idle": "green",
    "waiting": "yellow",
    "activating": "yellow",
    "draining": "yellow",
    "cold": "dim",
}
"""Style of each state; all other states are problems and red."""
HISTORY = 1000
"""Measurements to keep: more than a terminal has columns."""


class Screen(App[None]):
    """The live table. ``failure`` is the error that ended it; None: the user did.

    While the host is away, the table keeps its last contents and the message line reports it.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #memory, #bars { height: 1; }
    #message { height: auto; max-height: 3; }
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
        Binding("r", "reload", show=False),  # the shown keys fill 40 columns
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("j", "move(1)", show=False),
        Binding("k", "move(-1)", show=False),
    ]

    def __init__(self, client: Client, interval: float) -> None:
        # Keep the terminal's own colours: its user has chosen light or dark.
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"
        self.title = "handler-host"
        self.failure: Failure | None = None
        self._client = client
        self._interval = interval
        self._history: deque[int] = deque(maxlen=HISTORY)
        self._memory: dict[str, Any] | None = None
        self._handlers: list[dict[str, Any]] = []
        self._draining = False
        self._columns: list[Column] = []
        self._refreshing = asyncio.Lock()
        self._commands: set[asyncio.Task[None]] = set()

    def compose(self) -> ComposeResult:
        """Yield the widgets (textual)."""
        yield Static(id="memory", markup=False)
        yield Static(id="bars", markup=False)
        yield DataTable[Text](cursor_type="row", cell_padding=1)
        yield Static(id="message", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    async def on_mount(self) -> None:
        """Refresh now and at each interval (textual)."""
        self._show_message("arrows, j and k select; r reloads")
        self.set_interval(self._interval, self._refresh_unless_busy)
        await self._refresh()

    def on_resize(self) -> None:
        """Choose the columns again (textual)."""
        self._show()

    async def on_unmount(self) -> None:
        """Stop waiting for commands in progress; the host finishes them (textual)."""
        for task in self._commands:
            task.cancel()
        await asyncio.gather(*self._commands, return_exceptions=True)

    def action_move(self, rows: int) -> None:
        """Select another handler."""
        table = self._table
        table.move_cursor(row=table.cursor_row + rows)

    def action_load(self) -> None:
        """Load the selected handler."""
        self._start_command("activating", "load", describe_load)

    def action_unload(self, mode: str) -> None:
        """Unload the selected handler."""
        self._start_command("unloading", "unload", describe_unload, mode=mode)

    def action_reload(self) -> None:
        """Unload the selected handler, so that its next dispatch runs the installed version."""
        self._start_command("reloading", "reload", describe_unload)

    def action_pin(self) -> None:
        """Pin the selected handler, or unpin it if it is pinned."""
        selected = self._selected()
        is_pinned = any(handler["name"] == selected and handler["pin"] for handler in self._handlers)
        command = "unpin" if is_pinned else "pin"
        self._start_command(f"{command}ning", command, describe_pin)

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one(DataTable)

    def _selected(self) -> str | None:
        row = self._table.cursor_row
        return self._handlers[row]["name"] if 0 <= row < len(self._handlers) else None

    def _start_command(
        self, progress: str, command: str, describe: Callable[[dict[str, Any]], str], **query: object
    ) -> None:
        """Run a command for the selected handler in a task; ``describe`` turns the response into the message."""
        name = self._selected()
        if name is None:
            self._show_message("no handler is selected")
            return
        self._show_message(f"{name}: {progress}")
        task = asyncio.create_task(self._run_command(name, command, describe, query), name=f"{command} of {name}")
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _run_command(
        self, name: str, command: str, describe: Callable[[dict[str, Any]], str], query: dict[str, object]
    ) -> None:
        try:
            receipt = await asyncio.to_thread(self._client.call_admin, "POST", "handlers", name, command, **query)
        except Failure as failure:
            self._show_message(str(failure))
            return
        # The table before the message: after the message the user's next key acts on what the table shows.
        await self._refresh()
        self._show_message(describe({"handler": name} | receipt))

    async def _refresh_unless_busy(self) -> None:
        """Refresh, unless the previous refresh takes longer than the interval."""
        if not self._refreshing.locked():
            await self._refresh()

    async def _refresh(self) -> None:
        """Fetch and show the state of the host; it is not older than this call."""
        async with self._refreshing:
            try:
                memory = await asyncio.to_thread(self._client.call_admin, "GET", "memory")
                response = await asyncio.to_thread(self._client.call_admin, "GET", "handlers")
            except Failure as failure:
                if failure.status != UNREACHABLE:  # such as a changed token: a retry would not help
                    self.failure = failure
                    self.exit()
                    return
                self._show_message(f"{failure}; retry in {self._interval:g} s")
                self._memory = None
            else:
                if self._memory is None and self._history:
                    self._show_message("the host is back")
                self._memory, self._handlers = memory, response["handlers"]
                self._draining = response.get("draining", False)
                self._history.append(memory["used"])
                self._show()

    def _show(self) -> None:
        if self._memory is None:
            return
        width = self.size.width
        self.query_one("#memory", Static).update(memory_line(self._memory, width, draining=self._draining))
        self.query_one("#bars", Static).update(bars(self._history, self._memory["limit"], width))
        table, selected = self._table, self._table.cursor_row
        name = self._name_in_row(selected)
        names = [handler["name"] for handler in self._handlers]
        # The table pads each column by one character on both sides, and needs space for its scroll bar.
        columns = columns_for(width - 3, names, has_several=may_have_several(self._handlers))
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

    def _name_in_row(self, row: int) -> str | None:
        keys = [key.value for key in self._table.rows]
        return keys[row] if 0 <= row < len(keys) else None

    def _cell(self, column: Column, handler: dict[str, Any]) -> Text:
        style = STATE_STYLES.get(handler["state"], "red") if column.title == "STATE" else ""
        return Text(cell(column, handler), style=style)

    def _show_message(self, text: str) -> None:
        self.query_one("#message", Static).update(sanitize(text).replace("\n", " "))
