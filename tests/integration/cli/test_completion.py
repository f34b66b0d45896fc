"""``handler-host completion``, in real shells."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli.harness import Run, Terminal

BASH = """
source "$1"
complete -p handler-host >/dev/null || exit 1
function_name=$(complete -p handler-host | sed 's/.*-F \\([^ ]*\\).*/\\1/')
shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
"$function_name" handler-host "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
LINES = [
    (["handler-host", "unl"], {"unload"}),
    (["handler-host", "unload", "--mo"], {"--mode"}),
    (["handler-host", "config", "ch"], {"check"}),
    (["handler-host", "unload", "--mode", "dr"], {"drain"}),
]
"""The words of a line, and the completions of its last word."""


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


def write_script(run: Run, directory: Path, shell: str) -> Path:
    result = run("completion", shell)
    assert result.status == 0, result.err
    path = directory / ("_handler-host" if shell == "zsh" else f"handler-host.{shell}")
    path.write_text(result.out)
    return path


@pytest.mark.parametrize(("words", "completions"), LINES)
def test_bash(words: list[str], completions: set[str], run: Run, tmp_path: Path) -> None:
    script = write_script(run, tmp_path, "bash")
    command = ["bash", "--norc", "-c", BASH, "bash", str(script), *words]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert set(map(str.strip, output.splitlines())) == completions


@needs("fish")
@pytest.mark.parametrize(("words", "completions"), LINES)
def test_fish(words: list[str], completions: set[str], run: Run, tmp_path: Path) -> None:
    script = write_script(run, tmp_path, "fish")
    line = " ".join(words)
    command = ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {entry.partition("\t")[0] for entry in output.splitlines()} == completions


@needs("zsh")
def test_zsh(run: Run, tmp_path: Path) -> None:
    script = write_script(run, tmp_path, "zsh")
    with Terminal("-f", "-i", program=["zsh"], PS1="ready> ", HOME=str(tmp_path), COLUMNS="200") as terminal:
        terminal.until("ready> ")
        terminal.type(f"fpath=({script.parent} $fpath); autoload -U compinit; compinit -u -D; print loaded\\!\n")
        terminal.until("loaded!\r\n")
        terminal.until("ready> ")
        for line, completed in (("handler-host unl\t", "unload"), ("handler-host config ch\t", "config check")):
            terminal.type(line)
            terminal.until(completed)
            terminal.type("\x15")  # Ctrl-U deletes the line


def test_without_shtab_names_the_extra(tmp_path: Path) -> None:
    """Given a shtab that cannot be imported, the command says which extra has it."""
    (tmp_path / "shtab.py").write_text("raise ModuleNotFoundError('no shtab here', name='shtab')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from handler_host.cli.main import main; "
    command = [sys.executable, "-c", f"{code}sys.exit(main(['completion', 'bash']))"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1
    assert "pip install 'handler-host[tools]'" in process.stderr
