"""A copy of a plugin's project to build in: a build backend leaves files in the sources, which then count as installed.

setuptools writes ``build/`` and ``NAME.egg-info``; with an editable install the latter is on the path of the host.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

LEFT_OUT = {"__pycache__", "node_modules", ".tox", ".nox", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"}
"""Directories that no build needs; virtual environments and the output of setuptools are left out as well."""
GIT = ".git"


def copy_project(project: Path, directory: Path) -> Path:
    """Copy a project into an empty directory and return the copy.

    Within a Git repository the copy has the same place below ``directory`` as the project in its repository, and Git
    answers there as in the project: backends ask it for the version and for the list of files.
    """
    project = project.absolute()
    repository = next((parent for parent in (project, *project.parents) if (parent / GIT).exists()), None)
    target = directory / project.relative_to(repository) if repository is not None else directory / project.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(project, target, symlinks=True, ignore=_left_out, dirs_exist_ok=True)
    if repository is not None:
        (directory / GIT).write_text(f"gitdir: {_git_directory(repository / GIT)}\n")
    return target


def _left_out(directory: str, names: Iterable[str]) -> set[str]:
    """Return the names that :func:`shutil.copytree` skips."""
    return {name for name in names if name == GIT or name in LEFT_OUT or _is_generated(directory, name)}


def _is_generated(directory: str, name: str) -> bool:
    path = os.path.join(directory, name)
    if name.endswith(".egg-info"):
        return True
    if os.path.basename(directory) == "build" and (name == "lib" or name.startswith(("lib.", "bdist."))):
        return True
    is_special = not os.path.isdir(path) and not os.path.isfile(path) and not os.path.islink(path)
    return is_special or os.path.isfile(os.path.join(path, "pyvenv.cfg"))


def _git_directory(git: Path) -> Path:
    """Return the repository's directory; of a worktree or a submodule ``.git`` is a file that names it."""
    if git.is_dir():
        return git
    name = git.read_text().partition("gitdir:")[2].strip()
    return Path(os.path.normpath(git.parent / name))
