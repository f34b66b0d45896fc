"""What ``handler-host top`` shows, as text: the columns that fit, the line of memory, the bars."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from handler_host.cli.render import duration, size, visible

BARS = " ▁▂▃▄▅▆▇█"


class Column(NamedTuple):
    """A column of the table: its title, its width, and its text of a handler's status."""

    title: str
    width: int
    text: Callable[[dict[str, Any]], str]
    left: bool = False


NAME = Column("NAME", 14, lambda handler: visible(handler["name"]), left=True)
COLUMNS = (
    Column("STATE", 12, lambda handler: visible(handler["state"]), left=True),
    Column("PSS", 9, lambda handler: size(handler["pss"])),
    Column("BUSY", 4, lambda handler: str(handler["in_flight"])),
    Column("QUEUED", 6, lambda handler: str(handler["queued"])),
    Column("EXPIRES", 8, lambda handler: "pinned" if handler["pin"] else duration(_whole(handler["expires_in"]))),
    Column("LEARNED", 9, lambda handler: size(handler["learned_pss"])),
    Column("IDLE", 8, lambda handler: duration(_whole(handler["idle_for"]))),
    Column("GEN", 4, lambda handler: str(handler["generation"] or "-")),
    Column("PID", 7, lambda handler: str(handler["pid"] or "-")),
    Column("DISPATCHES", 10, lambda handler: str(handler["dispatches"])),
)
"""All but the name, the most wanted first."""


def columns_for(width: int, names: Sequence[str]) -> list[Column]:
    """Return the columns that fit into ``width`` characters, with two between them; two at least.

    The name's gets what the names need, as far as it leaves room for a second one.
    """
    least = COLUMNS[0].width + 2
    longest = max(map(len, names), default=0)
    chosen = [NAME._replace(width=max(4, min(longest, width - least)))]
    used = chosen[0].width
    for column in COLUMNS:
        if used + 2 + column.width > width and len(chosen) > 1:
            break
        chosen.append(column)
        used += 2 + column.width
    return chosen


def cell(column: Column, handler: dict[str, Any]) -> str:
    """Return a handler's text in a column, cut and padded to its width."""
    text = column.text(handler).replace("\n", " ")
    if len(text) > column.width:
        text = text[: column.width - 1] + "…"
    return text.ljust(column.width) if column.left else text.rjust(column.width)


def heading(column: Column) -> str:
    """Return the title as the cells below it stand."""
    return column.title.ljust(column.width) if column.left else column.title.rjust(column.width)


def memory_line(memory: dict[str, Any], width: int) -> str:
    """Return what is used, of what may be; in full where there is room for it."""
    used, usable = size(memory["used"]), size(memory["usable"])
    long = f"memory {used} of {usable} usable; limit {size(memory['limit'])} ({visible(memory['limit_source'])})"
    for text in (long, f"memory {used} of {usable} usable", f"{used} of {usable}"):
        if len(text) <= width:
            return text
    return used


def bars(values: Sequence[int], limit: int, width: int) -> str:
    """Return the last ``width`` values as bars, the newest one to the right; a full bar is ``limit``."""
    shown = list(values)[-width:] if width > 0 else []
    steps = len(BARS) - 1
    # Rounded up: what takes little is not nothing.
    return "".join(BARS[max(0, min(steps, -(-value * steps // max(1, limit))))] for value in shown).rjust(width)


def frame(response: dict[str, Any], memory: dict[str, Any], history: Sequence[int], width: int) -> list[str]:
    """Return the whole as lines, for a terminal that only prints."""
    handlers = response["handlers"]
    columns = columns_for(width, [handler["name"] for handler in handlers])
    rows = [[heading(column) for column in columns]]
    rows += [[cell(column, handler) for column in columns] for handler in handlers]
    top = [memory_line(memory, width), bars(history, memory["limit"], min(width, len(history)))]
    return list(itertools.chain(top, ("  ".join(row).rstrip()[:width] for row in rows)))


def _whole(seconds: float | None) -> float | None:
    return None if seconds is None else float(int(seconds))
