"""`handler-host dev`: the source is served, and each save is what the next dispatch runs; the host stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handler_host.cli.author_log import print_author_log
from handler_host.cli.dev_server import Project, _note_conflicts
from handler_host.cli.main import main
from tests.integration.cli.harness import Terminal
from tests.support import install_plugin

PYPROJECT = """\
[project]
name = "parrot"
version = "1"

[project.entry-points."handler_host.v1"]
parrot = "parrot:Parrot"
"""
PARROT = """\
import time

from handler_host.chat import ChatHandler


class Parrot(ChatHandler):
    async def stream(self, request):
        if request.last_text() == "BLOCK":
            time.sleep(0.6)
        yield "FIRST " + request.last_text()
"""


@pytest.mark.slow
def test_a_saved_file_responds_next_or_is_an_error_at_once(tmp_path: Path) -> None:
    project = tmp_path / "project"
    module = project / "src" / "parrot" / "__init__.py"
    module.parent.mkdir(parents=True)
    (project / "pyproject.toml").write_text(PYPROJECT)
    module.write_text(PARROT)
    with Terminal("dev", str(project), "--log-level", "warning", XDG_DATA_HOME=str(tmp_path)) as terminal:
        terminal.until("you> ")
        terminal.type("hello\n")
        terminal.until("FIRST hello")
        terminal.until("you> ")
        terminal.type("BLOCK\n")
        terminal.until("parrot WARNING: it blocked the event loop for ")
        terminal.until("you> ")
        module.write_text(PARROT.replace("FIRST", "SECOND"))
        terminal.until("parrot reloaded")
        terminal.type("hello\n")
        terminal.until("SECOND hello")
        module.write_text(PARROT + "boom(\n")
        terminal.until("not reloaded: ")
        assert "SyntaxError" in terminal.until("activation_failed")
        draft = module.with_name("draft.py")  # as editors save
        draft.write_text(PARROT.replace("FIRST", "THIRD"))
        draft.replace(module)
        terminal.until("parrot reloaded: src/parrot/__init__.py changed")
        terminal.type("hello\n")
        terminal.until("THIRD hello")
        terminal.until("you> ")
        terminal.type("\x04")
        terminal.remaining()
        assert terminal.process.wait(30) == 0


@pytest.mark.parametrize(
    ("pyproject", "said"),
    [
        (None, "has no pyproject.toml"),
        ("[project]\nname = 'x'\n", 'add [project.entry-points."handler_host.v1"]'),
        ("[project", "cannot read it"),
    ],
)
def test_another_directory_than_a_plugins_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pyproject: str | None, said: str
) -> None:
    if pyproject is not None:
        (tmp_path / "pyproject.toml").write_text(pyproject)
    assert main(["dev", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_a_name_that_another_distribution_has_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_plugin(tmp_path / "site", "parrot", "")
    monkeypatch.syspath_prepend(tmp_path / "site")
    _note_conflicts(Project("my-parrot", {"parrot": "parrot:Parrot", "macaw": "parrot:Macaw"}, tmp_path))
    assert "parrot: parrot has a handler of this name, too; dev uses your source" in capsys.readouterr().err
    _note_conflicts(Project("Parrot", {"parrot": "parrot:Parrot"}, tmp_path))
    assert capsys.readouterr().err == ""


def test_a_blocked_loop_is_reported_once() -> None:
    step = "Executing <Task pending name='Task-7' coro=<OperationRunner._run() running at x.py:1>> took {} seconds"
    lines = [
        json.dumps({"level": "warning", "logger": "asyncio", "event": step.format(seconds), "handler": "parrot"})
        for seconds in ("0.120", "2.003", "2.004")
    ]
    printed: list[str] = []
    print_author_log(lines, ["parrot"], printed.append)
    assert len(printed) == 1
    assert "blocked the event loop for 2.0 s" in printed[0]
