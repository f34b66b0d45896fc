"""`handler-host check`: a report card on a real wheel, in real processes; each sin has its row and its remedy."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from handler_host.cli.main import main

pytestmark = pytest.mark.slow

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "sinner"
version = "0.1.0"
dependencies = {dependencies}

[project.entry-points."{group}"]
sinner = "sinner:{attribute}"

[tool.hatch.build.targets.wheel]
packages = ["src/sinner"]
exclude = {exclude}
"""
SINNER = """
import socket
import threading
import time

from handler_host.chat import ChatHandler

SOCKET = socket.socket()
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("{}")


class Sinner(ChatHandler):
    async def open(self):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        self.context.on_close(self.fail)

    def fail(self):
        raise RuntimeError("stuck")

    async def stream(self, request):
        time.sleep(2)
        yield "Hi"
"""


def write(directory: Path, source: str, manifest: str | None = None, tests: str | None = None, **fields: str) -> Path:
    """Write a project; ``fields`` are those of its pyproject.toml."""
    defaults = {"dependencies": '["handler-host"]', "group": "handler_host.v1", "attribute": "Sinner", "exclude": "[]"}
    package = directory / "src" / "sinner"
    package.mkdir(parents=True)
    (directory / "pyproject.toml").write_text(PYPROJECT.format(**{**defaults, **fields}))
    (package / "__init__.py").write_text(source)
    if manifest is not None:
        (package / "handler.toml").write_text(manifest)
    if tests is not None:
        (directory / "tests").mkdir()
        (directory / "tests" / "test_sinner.py").write_text(tests)
    return directory


def checked(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    status = main(["check", str(path), "--json", "--installer=--no-build-isolation", "--installer=--no-index", *words])
    response = json.loads(capsys.readouterr().out)
    assert response["fit"] is (status == 0)
    return status, response["rows"]


def texts(rows: list[dict[str, Any]], *marks: str) -> str:
    return "\n".join(row["text"] for row in rows if row["mark"] in marks)


@pytest.mark.parametrize(("kind", "words"), [("chat", ["--protocol", "openai"]), ("operations", [])])
def test_what_new_writes_is_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, words: list[str]
) -> None:
    assert main(["new", "my_gpt", "--kind", kind, "--directory", str(tmp_path / "project")]) == 0
    status, rows = checked(tmp_path / "project", capsys, *words)
    assert status == 0, rows
    assert texts(rows, "warning", "problem") == ""
    if kind == "chat":
        assert "reads its secret from MY_GPT_API_KEY, or for it alone from HANDLER_HOST_" in texts(rows, "note")
    said = texts(rows, "ok")
    assert "found as my_gpt:MyGpt, nothing imported" in said
    assert "and opens nothing" in said
    assert "active after" in said
    classes = {"chat": "ChatConformance", "operations": "OperationsConformance"}
    assert re.search(rf"^include {classes[kind]}V\d+$", said, re.MULTILINE)
    assert re.search(r"^[1-9]\d* tests pass", said, re.MULTILINE), "the project's own tests"


def test_what_a_handler_does_to_its_process_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = '[operations.talk]\n[memory]\nestimate = "900MB"\n'
    project = write(tmp_path, SINNER, manifest, "def test_it() -> None:\n    assert False\n")
    status, rows = checked(project, capsys)
    assert status == 1
    problems, warnings = texts(rows, "problem"), texts(rows, "warning")
    assert "opens 1 thread, 1 socket at import (socket: sinner/__init__.py:8, thread: sinner/__init__.py:9)" in problems
    assert "blocked its event loop for" in problems
    assert "s (sinner/__init__.py:22); use await, or asyncio.to_thread" in problems
    assert "writes to standard output: '{}' (sinner/__init__.py:10); that becomes lines of the host's log" in warnings
    assert "its manifest declares the operations talk, but it has chat" in problems
    assert "1 of 1 tests fail: test_it" in problems
    assert "fails when it is stopped: deactivate or on_close: RuntimeError: stuck (sinner/__init__.py:19)" in problems
    assert "leaves behind after deactivate: 1 thread" in warnings
    assert "its manifest estimates 900.0 MB" in warnings
    assert "include no conformance class" in warnings


def test_what_is_wrong_with_a_package_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = write(tmp_path, SINNER, "", attribute="Saint", dependencies="[]", exclude='["*.toml"]')
    status, rows = checked(project, capsys)
    problems = texts(rows, "problem")
    assert status == 1
    assert "does not depend on handler-host" in problems
    assert "src/sinner/handler.toml is missing; configure your build backend to include it" in problems
    assert "activation failed: sinner could not be activated: sinner (sinner/__init__.py) has no 'Saint'" in problems
    assert "no directory tests/" in texts(rows, "warning")


def test_a_module_that_fails_to_import_is_not_reported_as_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = write(tmp_path, 'raise RuntimeError("out of ink")\n', "[operations.chat]\n")
    status, rows = checked(project, capsys)
    assert status == 1
    assert "its module imports" not in texts(rows, "ok", "note", "warning", "problem")
    assert "RuntimeError: out of ink (sinner/__init__.py:1)" in texts(rows, "problem")


COUNTER = """
import sqlite3
import sys
import time

import msgspec
import pytest

from handler_host.plugin import hookimpl, operation


class Amount(msgspec.Struct):
    number: int


class Sinner:
    @hookimpl
    def activate(self, context):
        self.db = sqlite3.connect(context.data_dir / "counter.db")
        context.on_close(self.db.close)

    @operation("add")
    async def add(self, request: Amount) -> int:
        time.sleep(0.6)
        time.sleep(0.6)
        return request.number

    @operation("quit")
    async def quit(self) -> int:
        sys.exit(3)
"""
TESTS = """
import threading
from pathlib import Path


def test_passes() -> None:
    pass


def test_hangs() -> None:
    threading.Event().wait()


def test_fails() -> None:
    assert Path("no").exists(), "no file"
"""


def test_flaws_of_all_parts_are_found_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a data directory; a test that hangs does not lose the results of the others."""
    project = write(
        tmp_path, COUNTER, tests=TESTS, dependencies='["handler-host", "msgspec<0.1", "no-such-distribution"]'
    )
    (project / "pyproject.toml").write_text(
        (project / "pyproject.toml").read_text().replace('sinner = "sinner:Sinner"', 'gpt_a = "sinner:Sinner"')
    )
    (project / "src" / "sinner" / "inner").mkdir()
    (project / "src" / "sinner" / "inner" / "handler.toml").touch()
    (project / "handler.toml").touch()
    status, rows = checked(project, capsys, "--test-timeout", "2")
    assert status == 1
    problems, warnings = texts(rows, "problem"), texts(rows, "warning")
    assert re.search(r"blocked its event loop for 1\.\d+ s \(sinner/__init__\.py:(23|24)\)", problems)
    assert "quit with the made-up request {} failed: it raised: it called sys.exit(3) (sinner/__init__.py" in problems
    assert "sinner 0.1.0 requires msgspec<0.1, but " in problems
    assert "sinner 0.1.0 requires no-such-distribution, which is not installed: install the project" in problems
    assert "sinner/__init__.py:7 imports pytest of pytest, which is not required; add it to dependencies" in problems
    assert "imports msgspec" not in problems
    assert "handler.toml is missing; move it into the package, beside its __init__.py" in problems.splitlines()
    assert "the host does not read sinner/inner/handler.toml; move it to sinner/handler.toml" in problems
    assert "handler-host-gpt-a 0.1.0, which is installed here, has a handler of this name too" in warnings
    failed = "2 of 3 tests fail: test_hangs: Failed: did not end within 2 s; test_fails: AssertionError: no file"
    assert f"{failed} (tests/test_sinner.py:15); run: pytest" in problems
    assert "active after" in texts(rows, "ok")


def test_a_failing_import_is_a_problem_without_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = '[operations.chat]\n[config.place]\ntype = "string"\nrequired = true\n'
    project = write(tmp_path, "import no_such_module\n", manifest)
    status, rows = checked(project, capsys)
    assert status == 1
    assert "its module could not be imported: ModuleNotFoundError: No module named 'no_such_module'" in texts(
        rows, "problem"
    )
    assert "missing key place (string); set it there with --set KEY=VALUE" in texts(rows, "note")
    _, rows = checked(project, capsys, "--set", "place=here")
    assert "activation failed: " in texts(rows, "problem")


def test_a_broken_or_empty_wheel_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, rows = checked(write(tmp_path / "other", SINNER, group="other.group"), capsys)
    assert 'add [project.entry-points."handler_host.v1"]' in texts(rows, "problem")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pyproject.toml").write_text("[project]\nname = 7\n")
    _, rows = checked(tmp_path / "broken", capsys)
    assert "the build failed: " in texts(rows, "problem")


BUILT_BY = '[build-system]\nrequires = ["{}"]\nbuild-backend = "{}"\n'


@pytest.mark.parametrize(
    ("pyproject", "said"),
    [
        (
            BUILT_BY.format("hatchling", "hatchling.build") + '[project]\nname = "parrot-gpt"\nversion = "0.1.0"\n',
            ("ValueError: Unable to determine which files to ship", "no directory that matches", "(parrot_gpt)"),
        ),
        ('[project]\nname = "parrot"\n', ("`project` must contain ['version'] properties",)),
        ("[project\n", ("TOMLDecodeError: Expected ']'", "line 1, column 9")),
        (BUILT_BY.format("pip", "no_such_backend"), ("ModuleNotFoundError: No module named 'no_such_backend'",)),
        (
            BUILT_BY.format("setuptools", "setuptools.build_meta") + '[project]\nname = "two"\nversion = "0.1.0"\n',
            ("Multiple top-level packages discovered in a flat-layout: ['one', 'other']",),
        ),
    ],
)
def test_a_failed_build_shows_the_back_ends_words_and_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pyproject: str, said: tuple[str, ...]
) -> None:
    for package in ("one", "other"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text(pyproject)
    status, rows = checked(tmp_path, capsys)
    assert status == 1
    (problem,) = rows
    assert "See above" not in problem["text"]
    assert "Traceback" not in problem["text"]
    for words in said:
        assert words in problem["text"]
    reason, command = problem["text"].split("; for the full output: ")
    assert len(reason) < 1500
    assert "handler-host-check-" not in command
    again = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert said[0] in again.stderr + again.stdout


FORKING = "import os\nfrom handler_host.chat import ChatHandler\nCHILD = os.fork()\nos.write(1, b'raw words')\n"
LATE = "    async def stream(self, request):\n        yield 'Bon'\n        1 / 0\n"


def test_forks_prints_and_late_errors_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, rows = checked(write(tmp_path, f"{FORKING}class Sinner(ChatHandler):\n{LATE}"), capsys)
    problems = texts(rows, "problem")
    assert "opens 1 process at import (process: sinner/__init__.py:3); do it in activate" in problems
    assert (
        "chat failed: it raised: ZeroDivisionError: division by zero (sinner/__init__.py:8); "
        "clients get status 500, so raise an error of handler_host.plugin.errors"
    ) in problems
    assert "writes to standard output: 'raw words" in texts(rows, "warning")


def test_a_plugin_that_ends_its_process_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, rows = checked(write(tmp_path, "import os\nos._exit(3)\n"), capsys)
    assert "ended the process that checks it (exit status 3)" in texts(rows, "problem")


def test_a_directory_without_a_project_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 2
    assert "has no pyproject.toml" in capsys.readouterr().err
