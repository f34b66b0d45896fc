"""``handler-host top`` at a real terminal, with the real host."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from textual.binding import Binding

from tests.integration.cli.harness import PARROT, TOKEN, Run, Terminal, get_admin, start_host, states
from tests.support import install_plugin

FAST = ("top", "--interval", "0.2s")
"""The handlers in the table are broken, keyless, macaw, parrot."""


def press(terminal: Terminal, key: str, message: str) -> None:
    """Press a key and wait for its message."""
    terminal.type(key)
    terminal.until(message)


def quit_top(terminal: Terminal) -> int:
    """Press q; return the exit status."""
    terminal.type("q")
    terminal.remaining()
    return terminal.wait()


class TestKeys:
    def test_select_load_reload_and_unload(self, host: str) -> None:
        with Terminal(*FAST, COLUMNS="100") as terminal:
            terminal.until("macaw")
            terminal.type("jj")
            press(terminal, "l", "macaw: activated generation")
            assert states(host)["macaw"] == "idle"
            press(terminal, "r", "macaw: unloaded generation")
            press(terminal, "l", "macaw: activated generation")
            press(terminal, "u", "macaw: unloaded generation")
            assert states(host)["macaw"] == "cold"
            assert quit_top(terminal) == 0

    def test_pin_and_unpin(self, host: str) -> None:
        with Terminal(*FAST, COLUMNS="100") as terminal:
            terminal.until("macaw")
            terminal.type("jj")
            press(terminal, "p", "macaw: pinned, cold")
            assert get_admin(host, "handlers/macaw")["pin"] is True
            assert get_admin(host, "handlers/parrot")["pin"] is False
            press(terminal, "p", "macaw: not pinned, cold")
            assert get_admin(host, "handlers/macaw")["pin"] is False
            assert quit_top(terminal) == 0

    def test_arrows_and_a_refusal(self, host: str) -> None:
        with Terminal(*FAST, COLUMNS="120") as terminal:
            terminal.until("parrot")
            terminal.type("\x1b[B")
            press(terminal, "l", "MISSING_KEY")
            assert quit_top(terminal) == 0

    def test_help_names_every_key(self, run: Run) -> None:
        from handler_host.cli.top_screen import Screen

        keys = {binding.key for binding in Screen.BINDINGS if isinstance(binding, Binding)} - {"ctrl+c"}
        text = " ".join(run("top", "--help").out.partition("Keys: ")[2].partition(".")[0].split())
        assert keys <= set(re.findall(r"\b[a-zA-Z]\b", text))
        assert "arrows" in text

    def test_ctrl_c_quits(self, host: str) -> None:
        with Terminal("top", COLUMNS="80") as terminal:
            terminal.until("parrot")
            terminal.type("\x03")
            terminal.remaining()
            assert terminal.wait() == 0


class TestTerminal:
    def test_forty_columns_have_fewer_columns_and_all_keys(self, host: str) -> None:
        with Terminal(*FAST, COLUMNS="40") as terminal:
            screen = terminal.until("quit")
            assert "STATE" in screen
            assert "PID" not in screen
            terminal.type("jjj")
            press(terminal, "l", "parrot: activated generation")
            assert quit_top(terminal) == 0

    @pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "vt100"}], ids=["NO_COLOR", "vt100"])
    def test_few_or_no_colours(self, environment: dict[str, str], host: str) -> None:
        with Terminal(*FAST, COLUMNS="100", **environment) as terminal:
            screen = terminal.until("parrot")
            assert "missing-sec…" in screen
            # At most the terminal's own eight colours, and none with NO_COLOR.
            assert not re.search(r"\x1b\[[0-9;]*[34]8;[25];", screen)
            if "NO_COLOR" in environment:
                assert not re.search(r"\x1b\[(?:[0-9;]*;)?3[1-6]m", screen)
            assert quit_top(terminal) == 0

    def test_dumb_terminal_gets_tables(self, host: str) -> None:
        with Terminal(*FAST, TERM="dumb", COLUMNS="40") as terminal:
            first = terminal.until("parrot")
            terminal.until("memory")
            second = terminal.until("parrot")
            assert "\x1b" not in first + second
            assert "STATE" in second
            assert terminal.interrupt() == 130


class TestWithoutScreen:
    def test_once(self, host: str, run: Run) -> None:
        result = run("top", "--once")
        assert result.status == 0
        assert result.out.startswith("memory ")
        assert result.out.count("NAME") == 1
        assert "\nparrot" in result.out

    def test_without_a_terminal_names_alternatives(self, host: str, run: Run) -> None:
        result = run("top")
        assert result.status == 2
        assert "ps --json" in result.err

    @pytest.mark.parametrize("interval", ["0.1s", "soon"])
    def test_invalid_interval(self, interval: str, run: Run) -> None:
        result = run("top", "--interval", interval)
        assert result.status == 2
        assert "--interval" in result.err

    def test_wrong_token_leaves_the_screen_alone(self, host: str) -> None:
        with Terminal("top", COLUMNS="120", HANDLER_HOST_ADMIN_TOKEN="wrong") as terminal:
            output = terminal.remaining()
            assert terminal.wait() == 1
        assert "\x1b[?1049h" not in output
        assert "(invalid_key, request " in output

    def test_without_textual_names_the_extra(self, host: str, tmp_path: Path) -> None:
        package = tmp_path / "textual"
        package.mkdir()
        (package / "__init__.py").write_text("raise ModuleNotFoundError('no textual here', name='textual')")
        with Terminal("top", PYTHONPATH=str(tmp_path), COLUMNS="200") as terminal:
            output = terminal.remaining()
            assert terminal.wait() == 2
        assert "pip install 'handler-host[tools]'" in output
        assert "Traceback" not in output


def test_shows_a_drain_and_survives_a_restart_of_the_host(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", TOKEN)
    install_plugin(tmp_path, "parrot", PARROT)
    config = tmp_path / "host.toml"
    config.write_text(f'[catalog]\nroots = ["{tmp_path}"]\ninclude_sys_path = false\n')
    with contextlib.ExitStack() as stack:
        url, process = stack.enter_context(start_host("--config", str(config)))
        top = stack.enter_context(Terminal(*FAST, "--url", url, COLUMNS="160"))
        top.until("parrot")
        assert run("ps", "--url", url).err == ""
        assert run("drain", "--url", url).status == 0
        top.until("draining; memory")
        drained = run("ps", "--url", url)
        assert drained.err == "the host is draining: it refuses new work until it is restarted\n"
        assert drained.out.splitlines()[1].startswith("parrot")
        assert run("top", "--once", "--url", url).out.startswith("draining; memory")
        process.terminate()
        top.until("no host at")
        assert process.wait(20) == 0
        stack.enter_context(start_host("--config", str(config), port=int(url.rpartition(":")[2])))
        top.until("the host is back")
        assert quit_top(top) == 0
