"""Each command imports what it needs, and teaches how it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from handler_host.cli.parser import make_parser
from tests.integration.cli.running import Run

(COMMANDS,) = (list(action.choices or ()) for action in make_parser()._actions if action.dest == "command")
HEAVY = {"aiohttp", "msgspec", "psutil", "pluggy", "http.client", "asyncio", "pydantic", "ssl"}


def modules_after(code: str) -> set[str]:
    """Return what a fresh interpreter has imported when ``code`` has run."""
    script = f"import sys\n{code}\nprint('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("modules:")[2].split())


@pytest.mark.parametrize("words", [["version"], ["--help"], ["chat", "--help"], ["--version"], []])
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    modules = modules_after(f"from handler_host.cli import main\nmain({words})")
    assert "handler_host.cli.parser" in modules
    assert not HEAVY & modules


def test_the_server_imports_none_of_the_tools() -> None:
    """Given a server that ends at once, the process has its parser, and nothing else of the command line."""
    modules = modules_after(
        "import handler_host.server\nhandler_host.server.run = lambda config, reread: 0\n"
        "from handler_host.cli import main\nmain(['serve'])"
    )
    ours = {name for name in modules if name.startswith("handler_host.cli")}
    own = ("failure", "flags", "options", "parser", "serve")
    assert ours == {"handler_host.cli", *(f"handler_host.cli.{name}" for name in own)}
    assert not {"pydantic", "getpass", "readline"} & modules


def test_a_command_that_talks_to_a_host_imports_no_server() -> None:
    modules = modules_after("from handler_host.cli import main\nmain(['ps', '--url', 'http://127.0.0.1:1'])")
    assert not {"aiohttp", "msgspec", "handler_host.server", "handler_host.lifecycle.supervisor", "asyncio"} & modules


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_says_what_it_is_for_and_gives_an_example(command: str, run: Run) -> None:
    result = run(command, "--help")
    assert result.status == 0
    assert f"usage: handler-host {command}" in result.out
    assert "\nexample" in result.out
    assert f"  handler-host {command}" in result.out or f" handler-host {command}" in result.out
    assert all(len(line) <= 90 for line in result.out.splitlines())


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    result = run()
    assert (result.status, result.out) == (2, "")
    assert "unload" in result.err


@pytest.mark.parametrize(
    "words",
    [["sp"], ["ps", "--jso"], ["unload", "x", "--mode", "gently"], ["load"], ["chat"], ["dispatch", "parrot"]],
)
def test_wrong_usage_is_2(words: list[str], run: Run) -> None:
    result = run(*words)
    assert result.status == 2
    assert "usage:" in result.err


def test_version(run: Run) -> None:
    from handler_host._internal.versions import __version__

    assert run("version").out.startswith(f"handler-host {__version__} (Python 3.")
