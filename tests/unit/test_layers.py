"""Each distribution imports only what it declares, the map of the code is complete, and modules stay small.

import-linter holds the order of the packages and refuses cycles: `make imports`, contracts in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "host" / "src" / "handler_host"
MODULES = sorted(PACKAGE.rglob("*.py"))
DISTRIBUTIONS = [
    ROOT,
    *sorted(path.parent for kind in ("plugins", "launchers") for path in ROOT.glob(f"{kind}/*/pyproject.toml")),
]

AIOHTTP_TYPES = {"multidict", "yarl"}
"""Distributions whose types aiohttp's own interface returns: they come with it."""


def imports_of(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the absolute dotted name of each import of a file: at its top, lazy, and for types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -(node.level - 1) or None] if node.level else []
            base += [node.module] if node.module else []
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def import_name(requirement: str) -> str:
    """Return the import name of a requirement, ``aiohttp>=3.12`` for example, where it follows the distribution's."""
    return re.split(r"[^\w.-]", requirement)[0].replace("-", "_")


@pytest.mark.parametrize("root", DISTRIBUTIONS, ids=lambda path: path.name)
def test_a_distribution_imports_only_what_it_declares(root: Path) -> None:
    """A package that the tests' environment happens to have would be missing elsewhere."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    extras = {
        extra: {import_name(requirement) for requirement in requirements}
        for extra, requirements in project["project"].get("optional-dependencies", {}).items()
    }
    declared = {import_name(requirement) for requirement in project["project"]["dependencies"]}.union(*extras.values())
    (package,) = (root / name for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    allowed = declared | {package.name, "handler_host"} | set(sys.stdlib_module_names)
    if "opentelemetry_sdk" in declared:
        allowed.add("opentelemetry")  # a namespace of several distributions
    if any(name.startswith("google_") for name in declared):
        allowed.add("google")  # as opentelemetry
    if "aiohttp" in declared:
        allowed |= AIOHTTP_TYPES
    undeclared = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted(package.rglob("*.py"))
        for line, name in imports_of(path, package.name)
        # A package with the name of an extra may import the extra's distributions.
        if name.partition(".")[0] not in allowed | extras.get(path.parent.name, set())
    ]
    assert not undeclared, f"neither in the standard library nor declared in {root.name}/pyproject.toml: {undeclared}"


def test_the_map_of_the_code_has_every_part() -> None:
    text = (ROOT / "docs" / "explanation" / "code.md").read_text(encoding="utf-8")
    entries = {path.name + "/" if path.is_dir() else path.name for path in PACKAGE.iterdir()}
    parts = {name for name in entries if not name.startswith("__") and name != "py.typed"}
    named = set(re.findall(r"`handler_host/([\w.]+/?)`", text))
    assert parts - named == set(), "parts of the package that docs/explanation/code.md does not name"
    assert named - parts == set(), "parts that docs/explanation/code.md names and the package does not have"


def test_modules_are_small() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    long = {name: lines for name, lines in lengths.items() if lines > 300}
    assert len(long) <= len(lengths) // 8, f"too many modules are longer than 300 lines: {long}"
    assert all(lines <= 400 for lines in long.values()), f"longer than 400 lines: {long}"
