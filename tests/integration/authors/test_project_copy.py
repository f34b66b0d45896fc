"""``check`` builds in a copy of the project, which a build backend may fill with files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from handler_host.cli.main import main
from handler_host.cli.project_copy import copy_project

OFFLINE = ("--installer=--no-build-isolation", "--installer=--no-index")
PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "mine"
version = "1.0"

[project.entry-points."handler_host.v1"]
mine = "mine:Mine"
"""


def project_at(directory: Path) -> Path:
    """Write a project with the traces of earlier builds, a virtual environment and a link."""
    package = directory / "src" / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("class Mine: ...\n")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "old.pyc").write_text("")
    (directory / "pyproject.toml").write_text(PYPROJECT)
    (directory / "src" / "mine.egg-info").mkdir()
    (directory / "build" / "lib").mkdir(parents=True)
    (directory / "build" / "hook.py").write_text("")
    (directory / "env").mkdir()
    (directory / "env" / "pyvenv.cfg").write_text("")
    (directory / "README.md").symlink_to("src/mine/__init__.py")
    (directory / "dangling").symlink_to("nowhere")
    return directory


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir() or path.is_symlink()}


def git(directory: Path, *words: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
    command = ["git", "-C", str(directory), *identity, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class TestCopy:
    def test_has_the_sources_and_no_output(self, tmp_path: Path) -> None:
        copy = copy_project(project_at(tmp_path / "project"), tmp_path / "copy")
        assert files(copy) == {"pyproject.toml", "README.md", "dangling", "build/hook.py", "src/mine/__init__.py"}
        assert (copy / "README.md").readlink() == Path("src/mine/__init__.py")

    @pytest.mark.parametrize("place", [".", "plugins/mine"])
    def test_has_the_version_and_files_of_its_repository(self, tmp_path: Path, place: str) -> None:
        repository = tmp_path / "repository"
        project = project_at(repository / place)
        git(repository, "init", "--quiet")
        git(repository, "add", "--", f"{place}/pyproject.toml", f"{place}/src/mine/__init__.py")
        git(repository, "commit", "--quiet", "--message", "x")
        git(repository, "tag", "v1.5")
        copy = copy_project(project, tmp_path / "copy")
        assert git(copy, "describe", "--tags") == "v1.5"
        assert git(copy, "ls-files") == git(project, "ls-files")
        assert git(copy, "status", "--short", "--untracked-files=no") == ""

    def test_of_a_worktree(self, tmp_path: Path) -> None:
        repository = project_at(tmp_path / "repository")
        git(repository, "init", "--quiet")
        git(repository, "add", "pyproject.toml")
        git(repository, "commit", "--quiet", "--message", "x")
        git(repository, "worktree", "add", "--quiet", "--detach", str(tmp_path / "worktree"))
        copy = copy_project(tmp_path / "worktree", tmp_path / "copy")
        assert git(copy, "ls-files") == "pyproject.toml"


class TestCheck:
    def test_leaves_the_project_as_it_is(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        project = project_at(tmp_path / "project")
        before = files(project)
        main(["check", str(project), *OFFLINE])
        assert "built mine-1.0-py3-none-any.whl" in capsys.readouterr().out
        assert files(project) == before
