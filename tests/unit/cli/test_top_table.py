"""The table of ``handler-host top``."""

from __future__ import annotations

from typing import Any

import pytest

from handler_host.cli.top_table import COLUMNS, NAME, bars, cell, columns_for, memory_line, table_lines

MB = 1024**2
MEMORY = {"used": 100 * MB, "usable": 450 * MB, "limit": 500 * MB, "limit_source": "cgroup v2"}


def status(**changes: Any) -> dict[str, Any]:
    """Return the fields of a handler's status that the table shows."""
    return {
        "name": "parrot",
        "state": "idle",
        "pss": 20 * MB,
        "learned_pss": 30 * MB,
        "in_flight": 1,
        "queued": 2,
        "idle_for": 3.7,
        "expires_in": 296.3,
        "generation": 4,
        "pid": 4711,
        "dispatches": 12,
        "pin": False,
        **changes,
    }


class TestColumns:
    def test_most_important_come_first(self) -> None:
        assert [column.title for column in columns_for(40, ["parrot"])] == ["NAME", "STATE", "PSS", "BUSY"]
        assert len(columns_for(200, ["parrot"])) == 1 + len(COLUMNS)
        assert [column.title for column in columns_for(5, ["parrot"])] == ["NAME", "STATE"]

    def test_workers_come_early_where_a_handler_may_have_several(self) -> None:
        handlers = [status(), status(name="macaw", max_workers=3, workers=[{}, {}])]
        _, _, header, parrot, macaw = table_lines(handlers, MEMORY, [1], 80)
        assert header.split()[:4] == ["NAME", "STATE", "PSS", "WORKERS"]
        assert [line.split()[4] for line in (parrot, macaw)] == ["0/1", "2/3"]
        assert "WORKERS" not in table_lines([status()], MEMORY, [1], 80)[2]

    @pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
    def test_no_line_is_wider_than_the_terminal(self, width: int) -> None:
        handlers = [status(), status(name="a-handler-with-a-very-long-name-of-forty-letters")]
        assert all(len(line) <= width for line in table_lines(handlers, MEMORY, [1, 2, 3], width))

    def test_long_name_is_cut_without_control_characters(self) -> None:
        column = NAME._replace(width=6)
        assert cell(column, status(name="macaws-and-parrots")) == "macaw…"
        assert "\x1b" not in cell(column, status(name="\x1b[31m"))

    def test_pinned_handler_never_expires(self) -> None:
        (expires,) = (column for column in COLUMNS if column.title == "EXPIRES")
        assert cell(expires, status(pin=True, expires_in=None)).strip() == "pinned"
        assert cell(expires, status()).strip() == "4m56s"


class TestMemory:
    def test_full_bar_is_the_limit(self) -> None:
        assert bars([0, 1, 50, 100, 200], 100, 5) == " ▁▄██"
        assert bars([100], 100, 3) == "  █"
        assert bars([1, 2, 3], 3, 2) == "▆█"
        assert bars([1], 1, 0) == ""

    def test_line_is_the_longest_that_fits(self) -> None:
        assert memory_line(MEMORY, 100) == "memory 100.0 MB of 450.0 MB usable; limit 500.0 MB (cgroup v2)"
        assert memory_line(MEMORY, 40) == "memory 100.0 MB of 450.0 MB usable"
        assert memory_line(MEMORY, 22) == "100.0 MB of 450.0 MB"

    def test_draining_comes_first_at_any_width(self) -> None:
        lines = {width: memory_line(MEMORY, width, draining=True) for width in (46, 45, 20, 8)}
        assert lines[46] == "draining; memory 100.0 MB of 450.0 MB usable"
        assert lines[20] == "draining; 100.0 MB"
        assert lines[8] == "draining"
        assert all(len(line) <= width for width, line in lines.items())
