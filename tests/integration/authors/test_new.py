"""`handler-host new`: what it writes is a plugin that passes its own tests, ruff and mypy strict as generated."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from handler_host.cli.main import main

ROOT = Path(__file__).parents[3]
KINDS = {"chat": "my_gpt", "operations": "my-operations", "local-model": "my_model"}


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module", params=KINDS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("new") / "project"
    assert main(["new", KINDS[request.param], "--kind", request.param, "--directory", str(directory)]) == 0
    return directory


# The tests of the other kinds run in test_check.py: `handler-host check` builds, installs and tests the project.
@pytest.mark.slow
@pytest.mark.parametrize("project", ["local-model"], indirect=True)
def test_a_generated_project_passes_its_own_tests(project: Path, tmp_path: Path) -> None:
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    built = run("pip", "install", *options, "--target", str(tmp_path / "site"), str(project), cwd=project)
    assert built.returncode == 0, built.stderr
    tested = run("pytest", "-q", "-p", "no:cacheprovider", cwd=project, PYTHONPATH=str(tmp_path / "site"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.slow
def test_a_generated_project_is_clean_for_ruff_and_mypy(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # What mypy has found of the libraries is the same for all kinds.
    mypy = ["mypy", "--cache-dir", str(tmp_path_factory.getbasetemp() / "mypy")]
    for words in (["ruff", "check", "."], ["ruff", "format", "--check", "."], mypy):
        result = run(*words, cwd=project)
        assert result.returncode == 0, f"{words}: {result.stdout}{result.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("project", ["operations"], indirect=True)
def test_the_recipe_for_state_is_clean_for_mypy(
    project: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = (ROOT / "docs/how-to/write-a-handler.md").read_text()
    (recipe,) = re.findall(r"^```python\n(import asyncio\nimport sqlite3\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "counter.py").write_text(recipe)
    cache = str(tmp_path_factory.getbasetemp() / "mypy")
    result = run("mypy", "--cache-dir", cache, str(tmp_path / "counter.py"), cwd=project)
    assert result.returncode == 0, result.stdout


def test_examples_of_the_docs_are_clean_for_ruff(tmp_path: Path) -> None:
    project = tmp_path / "project"
    assert main(["new", "my_gpt", "--directory", str(project)]) == 0
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("plugins/*/README.md")]
    modules = [
        module
        for page in pages
        for module in re.findall(r"^```python\n((?:import|from) .*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    ]
    assert len(modules) >= 10
    for number, module in enumerate(modules):
        (project / "src" / f"example_{number}.py").write_text(module)
    # Some continue an earlier one, and use its names (F821).
    result = run("ruff", "check", "--ignore", "F821", "--output-format", "concise", "src", cwd=project)
    assert result.returncode == 0, result.stdout


def test_the_smallest_chat_variant_has_at_most_12_lines(tmp_path: Path) -> None:
    assert main(["new", "my_gpt", "--directory", str(tmp_path / "project")]) == 0
    source = (tmp_path / "project" / "src" / "my_gpt" / "__init__.py").read_text()
    assert len(source.splitlines()) <= 12


@pytest.mark.parametrize(("kind", "missing"), [("chat", "gpt_a"), ("operations", ""), ("local-model", "gpt_e")])
def test_a_new_projects_missing_packages_are_named_first(tmp_path: Path, kind: str, missing: str) -> None:
    """In an environment with all that this one has but the plugins."""
    site = tmp_path / "site"
    site.mkdir()
    for found in Path(sysconfig.get_path("purelib")).iterdir():
        if "handler_host_" not in found.name:
            (site / found.name).symlink_to(found)
    command = [sys.executable, "-S", "-m", "handler_host", "new", "acme_gpt", "--kind", kind]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "host" / "src")])}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pip = f"pip install ./handler-host/plugins/{missing}"
    assert (pip in done.stdout) is (missing != "")
    if missing:
        assert f"handler-host-{missing.replace('_', '-')} is not installed here" in done.stdout
        assert done.stdout.index(pip) < done.stdout.index("cd acme_gpt")


def test_of_what_is_installed_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "my_gpt", "--directory", str(tmp_path / "project")]) == 0
    assert "not installed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My GPT", "'My GPT': invalid handler name"),
        ("class", "Python uses this name itself"),
        ("json", "Python uses this name itself"),
        ("gpt_a", "'gpt_a': handler-host-gpt-a has a handler of this name; choose another one"),
        ("openai", "'openai': a package openai is installed here ("),
        ("handler-host", "'handler-host': a package handler_host is installed here ("),
    ],
)
def test_an_invalid_name_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    assert main(["new", name, "--directory", str(tmp_path / "project")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "project").exists()


def test_what_is_there_already_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("precious")
    assert main(["new", "my_gpt", "--directory", str(tmp_path)]) == 2
    assert "the directory is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
