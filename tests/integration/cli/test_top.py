"""``handler-host top`` at a real terminal, against the real host."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler_host.cli.top_table import COLUMNS, NAME, bars, cell, columns_for, frame, memory_line
from tests.integration.cli.running import PARROT, TOKEN, Run, Terminal
from tests.integration.cli.test_operators import api
from tests.support import install_plugin

MB = 1024**2
MEMORY = {"used": 100 * MB, "usable": 450 * MB, "limit": 500 * MB, "limit_source": "cgroup v2"}


def status(**changes: Any) -> dict[str, Any]:
    """Return what the host tells of a handler, as far as it is shown."""
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


def pressed(terminal: Terminal, key: str, text: str) -> None:
    """Press a key, and wait for what comes of it."""
    terminal.type(key)
    terminal.until(text)


def ended(terminal: Terminal) -> int:
    """Press q; return the exit status."""
    terminal.type("q")
    terminal.rest()
    return terminal.process.wait(20)


def test_once_prints_one_table_and_ends(host: str, run: Run) -> None:
    result = run("top", "--once")
    assert result.status == 0
    assert result.out.startswith("memory ")
    assert result.out.count("NAME") == 1
    assert "\nparrot" in result.out


def test_keys_select_load_and_unload(host: str) -> None:
    """Given the handlers by name (broken, keyless, macaw, parrot), the third one is chosen by two steps down."""
    with Terminal("top", "--interval", "0.2s", COLUMNS="100") as terminal:
        terminal.until("macaw")
        terminal.type("jj")
        pressed(terminal, "l", "macaw: activated generation")
        assert {one["name"]: one["state"] for one in api(host, "/admin/handlers")["handlers"]}["macaw"] == "idle"
        pressed(terminal, "r", "macaw: unloaded generation")
        pressed(terminal, "l", "macaw: activated generation")
        pressed(terminal, "u", "macaw: unloaded generation")
        assert {one["name"]: one["state"] for one in api(host, "/admin/handlers")["handlers"]}["macaw"] == "cold"
        assert ended(terminal) == 0


def test_a_key_pins_a_handler_and_lets_it_go_again(host: str) -> None:
    with Terminal("top", "--interval", "0.2s", COLUMNS="100") as terminal:
        terminal.until("macaw")
        terminal.type("jj")
        pressed(terminal, "p", "macaw: pinned, cold")
        assert api(host, "/admin/handlers/macaw")["pin"] is True
        assert api(host, "/admin/handlers/parrot")["pin"] is False
        pressed(terminal, "p", "macaw: not pinned, cold")
        assert api(host, "/admin/handlers/macaw")["pin"] is False
        assert ended(terminal) == 0


def test_arrows_select_and_what_the_host_refuses_is_said(host: str) -> None:
    with Terminal("top", "--interval", "0.2s", COLUMNS="120") as terminal:
        terminal.until("parrot")
        terminal.type("\x1b[B")
        pressed(terminal, "l", "KEY_OF_NOBODY")
        assert ended(terminal) == 0


def test_a_terminal_of_forty_columns_has_fewer_columns_and_all_keys(host: str) -> None:
    with Terminal("top", "--interval", "0.2s", COLUMNS="40") as terminal:
        screen = terminal.until("quit")
        assert "STATE" in screen
        assert "PID" not in screen
        terminal.type("jjj")
        pressed(terminal, "l", "parrot: activated generation")
        assert ended(terminal) == 0


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "vt100"}], ids=["NO_COLOR", "vt100"])
def test_a_terminal_without_colours_shows_the_same(environment: dict[str, str], host: str) -> None:
    with Terminal("top", "--interval", "0.2s", COLUMNS="100", **environment) as terminal:
        screen = terminal.until("parrot")
        assert "missing-sec…" in screen
        # Eight colours of the terminal's own at most, and none where they are not wanted.
        assert not re.search(r"\x1b\[[0-9;]*[34]8;[25];", screen)
        if "NO_COLOR" in environment:
            assert not re.search(r"\x1b\[(?:[0-9;]*;)?3[1-6]m", screen)
        assert ended(terminal) == 0


def test_a_terminal_that_cannot_move_its_cursor_gets_tables_one_after_the_other(host: str) -> None:
    with Terminal("top", "--interval", "0.2s", TERM="dumb", COLUMNS="40") as terminal:
        first = terminal.until("parrot")
        terminal.until("memory")
        second = terminal.until("parrot")
        assert "\x1b" not in first + second
        assert "STATE" in second
        assert terminal.interrupted() == 130


def test_ctrl_c_ends_it(host: str) -> None:
    with Terminal("top", COLUMNS="80") as terminal:
        terminal.until("parrot")
        terminal.type("\x03")
        terminal.rest()
        assert terminal.process.wait(20) == 0


def test_without_a_terminal_it_says_what_else_there_is(host: str, run: Run) -> None:
    result = run("top")
    assert result.status == 2
    assert "ps --json" in result.err


def test_a_wrong_token_is_told_before_the_screen_is_taken(host: str) -> None:
    with Terminal("top", COLUMNS="120", HANDLER_HOST_ADMIN_TOKEN="wrong") as terminal:
        said = terminal.rest()
        assert terminal.process.wait(20) == 1
    assert "\x1b[?1049h" not in said
    assert "(invalid_key, request " in said


@pytest.mark.parametrize("interval", ["0.1s", "soon"])
def test_an_interval_that_makes_no_sense_is_refused(interval: str, run: Run) -> None:
    result = run("top", "--interval", interval)
    assert result.status == 2
    assert "--interval" in result.err


def test_without_textual_it_names_the_extra(host: str, tmp_path: Path) -> None:
    package = tmp_path / "textual"
    package.mkdir()
    (package / "__init__.py").write_text("raise ModuleNotFoundError('no textual here', name='textual')")
    with Terminal("top", PYTHONPATH=str(tmp_path), COLUMNS="200") as terminal:
        said = terminal.rest()
        assert terminal.process.wait(20) == 2
    assert "pip install 'handler-host[tools]'" in said
    assert "Traceback" not in said


def test_it_outlives_the_host_and_finds_its_successor(tmp_path: Path) -> None:
    install_plugin(tmp_path, "parrot", PARROT)
    config = tmp_path / "host.toml"
    config.write_text(f'[catalog]\nroots = ["{tmp_path}"]\ninclude_sys_path = false\n')
    with contextlib.ExitStack() as stack:
        url, first = stack.enter_context(serving(config, 0))
        top = stack.enter_context(
            Terminal("top", "--interval", "0.2s", "--url", url, COLUMNS="160", HANDLER_HOST_ADMIN_TOKEN=TOKEN)
        )
        top.until("parrot")
        first.terminate()
        top.until("no host at")
        assert first.wait(20) == 0
        stack.enter_context(serving(config, int(url.rpartition(":")[2])))
        top.until("the host is there again")
        assert ended(top) == 0


@contextlib.contextmanager
def serving(config: Path, port: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a host that the test may end."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "handler_host",
            "serve",
            "--config",
            str(config),
            "--port",
            str(port),
            "--log-level",
            "error",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"HANDLER_HOST_ADMIN_TOKEN": TOKEN},
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().removeprefix("ready ").strip(), process
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


class TestTable:
    def test_what_fits_is_shown_the_most_wanted_first(self) -> None:
        assert [column.title for column in columns_for(40, ["parrot"])] == ["NAME", "STATE", "PSS", "BUSY"]
        assert len(columns_for(200, ["parrot"])) == 1 + len(COLUMNS)
        assert [column.title for column in columns_for(5, ["parrot"])] == ["NAME", "STATE"]

    @pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
    def test_no_line_is_wider_than_the_terminal(self, width: int) -> None:
        response = {"handlers": [status(), status(name="a-handler-with-a-very-long-name-of-forty-letters")]}
        assert all(len(line) <= width for line in frame(response, MEMORY, [1, 2, 3], width))

    def test_a_long_name_is_cut_and_commands_no_terminal(self) -> None:
        column = NAME._replace(width=6)
        assert cell(column, status(name="macaws-and-parrots")) == "macaw…"
        assert "\x1b" not in cell(column, status(name="\x1b[31m"))

    def test_a_pinned_handler_never_expires(self) -> None:
        (expires,) = (column for column in COLUMNS if column.title == "EXPIRES")
        assert cell(expires, status(pin=True, expires_in=None)).strip() == "pinned"
        assert cell(expires, status()).strip() == "4m56s"

    def test_bars_rise_with_the_memory_and_a_full_one_is_the_limit(self) -> None:
        assert bars([0, 1, 50, 100, 200], 100, 5) == " ▁▄██"
        assert bars([100], 100, 3) == "  █"
        assert bars([1, 2, 3], 3, 2) == "▆█"
        assert bars([1], 1, 0) == ""

    def test_the_memory_is_told_as_fully_as_there_is_room(self) -> None:
        assert memory_line(MEMORY, 100) == "memory 100.0 MB of 450.0 MB usable; limit 500.0 MB (cgroup v2)"
        assert memory_line(MEMORY, 40) == "memory 100.0 MB of 450.0 MB usable"
        assert memory_line(MEMORY, 22) == "100.0 MB of 450.0 MB"
