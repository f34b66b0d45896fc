"""`handler-host dev`: the source is served, and each save is what the next dispatch runs; the host stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler_host.cli.main import main
from tests.integration.cli.harness import Terminal

PYPROJECT = """\
[project]
name = "parrot"
version = "1"

[project.entry-points."handler_host.v1"]
parrot = "parrot:Parrot"
"""
PARROT = """\
from handler_host.chat import ChatHandler


class Parrot(ChatHandler):
    async def stream(self, request):
        yield "FIRST " + request.last_text()
"""


@pytest.mark.slow
def test_what_is_saved_is_what_answers_next_and_what_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    project = tmp_path / "project"
    module = project / "src" / "parrot" / "__init__.py"
    module.parent.mkdir(parents=True)
    (project / "pyproject.toml").write_text(PYPROJECT)
    module.write_text(PARROT)
    with Terminal("dev", str(project), "--log-level", "error", XDG_DATA_HOME=str(tmp_path)) as terminal:
        terminal.until("you> ")
        terminal.type("hello\n")
        terminal.until("FIRST hello")
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
def test_a_directory_that_is_no_plugins_project_is_refused_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pyproject: str | None, said: str
) -> None:
    if pyproject is not None:
        (tmp_path / "pyproject.toml").write_text(pyproject)
    assert main(["dev", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
