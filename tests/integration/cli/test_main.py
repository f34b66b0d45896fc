"""The entry point: what a command imports, the help, wrong usage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from handler_host._internal.versions import __version__
from handler_host.cli.parser import COMMANDS
from tests.integration.cli.harness import Run

HEAVY = {"aiohttp", "msgspec", "psutil", "pluggy", "http.client", "asyncio", "pydantic", "ssl", "importlib.metadata"}
SERVE = """
import handler_host.server
handler_host.server.run = lambda config, reload: 0
"""


def modules_after(*words: str, setup: str = "") -> set[str]:
    """Return the modules that a fresh interpreter has imported after a command."""
    script = (
        f"import sys\n{setup}\nfrom handler_host.cli.main import main\nmain({list(words)})\n"
        "print('modules:', *sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(process.stdout.rpartition("modules:")[2].split())


class TestImports:
    @pytest.mark.parametrize("words", [["version"], ["--help"], ["--version"], []])
    def test_overview_is_light(self, words: list[str]) -> None:
        modules = modules_after(*words)
        assert "handler_host.cli.main" in modules
        assert not HEAVY & modules

    @pytest.mark.parametrize("command", COMMANDS)
    def test_help_imports_one_light_command(self, command: str) -> None:
        modules = modules_after(command, "--help")
        commands = {name.rpartition(".")[2] for name in modules if name.startswith("handler_host.cli.commands.")}
        shared = {"reload": {"unload"}, "unpin": {"pin"}, "forget": {"pin"}}
        assert commands == {command} | shared.get(command, set())
        assert not HEAVY & modules

    def test_server_has_no_tools(self) -> None:
        """Given a server that ends at once, its process has only the modules of the command line that parse."""
        modules = modules_after("serve", setup=SERVE)
        parsing = ("commands", "commands.serve", "failure", "main", "options", "parser")
        assert {name for name in modules if name.startswith("handler_host.cli")} == {
            "handler_host.cli",
            *(f"handler_host.cli.{name}" for name in parsing),
        }
        assert not {"pydantic", "getpass", "readline"} & modules

    def test_client_has_no_server(self) -> None:
        modules = modules_after("ps", "--url", "http://127.0.0.1:1")
        assert not modules & {
            "aiohttp",
            "msgspec",
            "handler_host.server",
            "handler_host.lifecycle.supervisor",
            "asyncio",
        }


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_command_has_purpose_and_example(self, command: str, run: Run) -> None:
        result = run(command, "--help")
        assert result.status == 0
        assert f"usage: handler-host {command}" in result.out
        assert "\nexample" in result.out
        assert f" handler-host {command}" in result.out.partition("\nexample")[2]
        assert all(len(line) <= 90 for line in result.out.splitlines())

    def test_without_command(self, run: Run) -> None:
        result = run()
        assert (result.status, result.out) == (2, "")
        assert "unload" in result.err

    def test_version(self, run: Run) -> None:
        assert run("version").out.startswith(f"handler-host {__version__} (Python 3.")


@pytest.mark.parametrize(
    "words",
    [["sp"], ["ps", "--jso"], ["unload", "x", "--mode", "gently"], ["load"], ["chat"], ["dispatch", "parrot"]],
)
def test_wrong_usage(words: list[str], run: Run) -> None:
    result = run(*words)
    assert result.status == 2
    assert "usage:" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["servee"], "handler-host: error: unknown command 'servee'; did you mean 'serve'?"),
        (["ps", "--jason"], "handler-host ps: error: unknown arguments: --jason; did you mean '--json'?"),
        (
            ["top", "--intervall=1s"],
            "handler-host top: error: unknown arguments: --intervall=1s; did you mean '--interval'?",
        ),
        (["rescan", "parrot"], "handler-host rescan: error: unknown arguments: parrot"),
    ],
)
def test_unknown_words_are_named_with_their_command(words: list[str], message: str, run: Run) -> None:
    assert run(*words).err.splitlines()[-1] == message


@pytest.mark.parametrize("words", [("check", "."), ("new", "x"), ("dev", ".")])
def test_removed_working_directory(
    words: tuple[str, ...], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "release"
    directory.mkdir()
    monkeypatch.chdir(directory)
    directory.rmdir()
    result = run(*words)
    assert result.status == 2
    assert result.err == "handler-host: the working directory was removed; change to a directory that exists\n"
