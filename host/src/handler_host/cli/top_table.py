"""The contents of ``handler-host top`` as text: the columns that fit, the memory line, the bars."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from handler_host.cli.render import sanitize, show_duration, show_size

BARS = " ▁▂▃▄▅▆▇█"
GAP = 2
"""Characters between two columns."""


class Column(NamedTuple):
    """A column of the table."""

    title: str
    width: int
    text: Callable[[dict[str, Any]], str]
    """Returns the cell for a handler's status."""
    left: bool = False


WORKERS = Column("WORKERS", 7, lambda handler: f"{len(handler.get('workers', ()))}/{handler.get('max_workers', 1)}")
NAME = Column("NAME", 14, lambda handler: sanitize(handler["name"]), left=True)
COLUMNS = (
    Column("STATE", 12, lambda handler: sanitize(handler["state"]), left=True),
    Column("PSS", 9, lambda handler: show_size(handler["pss"])),
    Column("BUSY", 4, lambda handler: str(handler["in_flight"])),
    Column("QUEUED", 6, lambda handler: str(handler["queued"])),
    Column("EXPIRES", 8, lambda handler: "pinned" if handler["pin"] else _show_whole_seconds(handler["expires_in"])),
    Column("LEARNED", 9, lambda handler: show_size(handler["learned_pss"])),
    Column("IDLE", 8, lambda handler: _show_whole_seconds(handler["idle_for"])),
    Column("GEN", 4, lambda handler: str(handler["generation"] or "-")),
    Column("PID", 7, lambda handler: str(handler["pid"] or "-")),
    Column("DISPATCHES", 10, lambda handler: str(handler["dispatches"])),
    WORKERS,
)
"""All columns but the name, the most important first."""


def columns_for(width: int, names: Sequence[str], *, has_several: bool = False) -> list[Column]:
    """Return the columns that fit into ``width`` characters: the name, and at least one other.

    The name gets the width of the longest of ``names``, if another column still fits. ``has_several``: a handler may
    have several workers, so their number comes before the times.
    """
    second = COLUMNS[0].width + GAP
    longest = max(map(len, names), default=0)
    columns = [NAME._replace(width=max(4, min(longest, width - second)))]
    used = columns[0].width
    for column in (*COLUMNS[:2], WORKERS, *COLUMNS[2:-1]) if has_several else COLUMNS:
        if used + GAP + column.width > width and len(columns) > 1:
            break
        columns.append(column)
        used += GAP + column.width
    return columns


def may_have_several(handlers: Sequence[dict[str, Any]]) -> bool:
    """Return whether one of the handlers may have several workers."""
    return any(handler.get("max_workers", 1) > 1 for handler in handlers)


def cell(column: Column, handler: dict[str, Any]) -> str:
    """Return a handler's cell, cut and padded to the width of the column."""
    text = column.text(handler).replace("\n", " ")
    if len(text) > column.width:
        text = text[: column.width - 1] + "…"
    return text.ljust(column.width) if column.left else text.rjust(column.width)


def heading(column: Column) -> str:
    """Return the title, aligned as the cells below it."""
    return column.title.ljust(column.width) if column.left else column.title.rjust(column.width)


def memory_line(memory: dict[str, Any], width: int, *, draining: bool = False) -> str:
    """Return whether the host drains, the used and the usable memory, in the longest form that fits."""
    used, usable = show_size(memory["used"]), show_size(memory["usable"])
    long = f"memory {used} of {usable} usable; limit {show_size(memory['limit'])} ({sanitize(memory['limit_source'])})"
    prefix = "draining; " if draining else ""
    for text in (long, f"memory {used} of {usable} usable", f"{used} of {usable}", used):
        if len(prefix + text) <= width:
            return prefix + text
    return "draining" if draining else used


def bars(values: Sequence[int], limit: int, width: int) -> str:
    """Return the last ``width`` values as bars, the newest one at the right; a full bar is ``limit``."""
    visible = list(values)[-width:] if width > 0 else []
    steps = len(BARS) - 1
    # Rounded up, so that a small value still shows a bar.
    return "".join(BARS[max(0, min(steps, -(-value * steps // max(1, limit))))] for value in visible).rjust(width)


def table_lines(
    handlers: Sequence[dict[str, Any]],
    memory: dict[str, Any],
    history: Sequence[int],
    width: int,
    *,
    draining: bool = False,
) -> list[str]:
    """Return the memory line, the bars and the table, for a terminal that cannot move its cursor."""
    columns = columns_for(width, [handler["name"] for handler in handlers], has_several=may_have_several(handlers))
    rows = [[heading(column) for column in columns]]
    rows += [[cell(column, handler) for column in columns] for handler in handlers]
    top = [memory_line(memory, width, draining=draining), bars(history, memory["limit"], min(width, len(history)))]
    gap = " " * GAP
    return list(itertools.chain(top, (gap.join(row).rstrip()[:width] for row in rows)))


def _show_whole_seconds(seconds: float | None) -> str:
    return show_duration(None if seconds is None else float(int(seconds)))
