"""Packages written for one test, run eagerly and lazily in processes of their own."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from handler_host.lean.compiler import Compiled, compile_package

SOURCES = str(Path(__file__).parents[3] / "host" / "src")
LAZY = """\
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from handler_host.lean import install
installed = install({packages!r}, eager={eager!r}, cache=Path({cache!r}))
assert not installed.eager, installed
"""
EAGER = "import sys\nsys.path[:0] = {paths!r}\n"


@dataclass(frozen=True)
class Workshop:
    """A directory of packages, and the cache of their rewritten code."""

    packages: Path
    cache: Path

    def write(self, files: Mapping[str, str]) -> None:
        """Write modules, by their path below the directory."""
        for name, text in files.items():
            path = self.packages / name
            path.parent.mkdir(parents=True, exist_ok=True)
            for parent in path.relative_to(self.packages).parents:
                if parent.name and parent != Path() and not (self.packages / parent / "__init__.py").exists():
                    (self.packages / parent / "__init__.py").touch()
            path.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()

    def compile(self, package: str = "pkg", eager: Collection[str] = ()) -> Compiled:
        """Compile a package for the interpreter of the tests."""
        return compile_package(package, eager=eager, cache=self.cache)

    def run(self, probe: str, *, lazy: bool, packages: Collection[str] = ("pkg",), eager: Collection[str] = ()) -> str:
        """Run a script in a fresh interpreter, and return what it prints."""
        prelude = (LAZY if lazy else EAGER).format(
            paths=[str(self.packages), SOURCES], packages=list(packages), eager=list(eager), cache=str(self.cache)
        )
        result = subprocess.run(
            [sys.executable, "-S", "-c", prelude + textwrap.dedent(probe)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def both(
        self, files: Mapping[str, str], probe: str, *, eager: Collection[str] = (), without_init: Collection[str] = ()
    ) -> str:
        """Write and compile ``pkg``, run a script eagerly and lazily, assert equal output, and return it."""
        self.write(files)
        for directory in without_init:
            (self.packages / directory / "__init__.py").unlink()
        self.compile(eager=eager)
        expected = self.run(probe, lazy=False)
        assert self.run(probe, lazy=True, eager=eager) == expected
        return expected


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Return a workshop whose packages the compiler finds."""
    (tmp_path / "packages").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    return Workshop(tmp_path / "packages", tmp_path / "cache")
