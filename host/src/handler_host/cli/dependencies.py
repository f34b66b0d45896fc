"""Checks of what handlers' distributions require: version conflicts, and packages without bytecode."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.catalog.dist_info import normalize_name
from handler_host.cli.findings import Finding, Level

if TYPE_CHECKING:
    from importlib.metadata import PackageMetadata

    from packaging.requirements import Requirement

Installed = Mapping[str, Distribution]
"""Distributions by normalized name."""

MIN_COMPILED_SHARE = 0.95
"""Share of modules with bytecode in a compiled package: a few modules are for other versions of Python."""


def check_dependencies(entries: Iterable[CatalogEntry]) -> Iterator[Finding]:
    """Yield, for each handler that can run, its version conflicts, and whether it has bytecode."""
    try:
        import packaging.requirements  # noqa: F401 - part of an extra
    except ImportError:
        yield Finding(Level.NOTE, "versions", "not checked: pip install 'handler-host[tools]'")
        return
    by_path: dict[tuple[str, ...], Installed] = {}
    for entry in entries:
        if entry.problem is not None and entry.problem.state in ("invalid", "conflict"):
            continue
        path = (entry.root,) if entry.python is not None else (entry.root, *sys.path)
        installed = by_path.setdefault(path, _installed(path))
        tree = _RequirementTree(installed)
        tree.visit(entry.distribution, ())
        remedy = (
            f"install compatible versions, or give {entry.name} an environment of its own: "
            f"handler-host env create {entry.name}"
        )
        for conflict in tree.conflicts:
            yield Finding(Level.PROBLEM, entry.name, f"{conflict}: {remedy}")
        if not tree.conflicts:
            yield Finding(Level.OK, entry.name, f"its {len(tree.visited)} distributions are compatible")
        yield from _check_bytecode(entry.name, [installed[name] for name in tree.visited])


def requirement_flaws(root: str, name: str) -> tuple[list[str], list[str]]:
    """Return the unmet requirements of a distribution in ``root``, and its imports of packages not required, in words.

    Raises ``ImportError`` without the package packaging, which is part of an extra.
    """
    import packaging.requirements  # noqa: F401 - before the work

    tree = _RequirementTree(_installed((root, *sys.path)))
    tree.visit(normalize_name(name), ())
    return tree.conflicts, list(_undeclared_imports(Path(root), tree.visited))


def _undeclared_imports(root: Path, required: Mapping[str, object]) -> Iterator[str]:
    """Yield in words the imports in ``root`` from distributions other than the required ones."""
    imports = [
        (file, line, module)
        for file in sorted(root.rglob("*.py"))
        for module, line in _module_level_imports(file)
        if module not in sys.stdlib_module_names and normalize_name(module) not in required
    ]
    # Reads the metadata of all distributions: most modules have the name of their distribution, and do without.
    owners = packages_distributions() if imports else {}
    for file, line, module in imports:
        names = owners.get(module, ())
        if names and required.keys().isdisjoint(map(normalize_name, names)):
            yield f"{file.relative_to(root)}:{line} imports {module} of {names[0]}"


def _module_level_imports(file: Path) -> Iterator[tuple[str, int]]:
    """Yield package and line of each import outside functions, ``try`` and ``if``, where it may be optional."""
    try:
        statements = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        return  # the activation reports it
    for statement in statements:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield alias.name.partition(".")[0], statement.lineno
        elif isinstance(statement, ast.ImportFrom) and not statement.level and statement.module:
            yield statement.module.partition(".")[0], statement.lineno


def _installed(path: tuple[str, ...]) -> Installed:
    installed: dict[str, Distribution] = {}
    for distribution in Distribution.discover(path=list(dict.fromkeys(path))):
        # None for a directory without metadata, if a package in use has brought importlib_metadata's finder.
        metadata: PackageMetadata | None = distribution.metadata
        name = metadata["Name"] if metadata is not None else None
        if name:
            installed.setdefault(normalize_name(name), distribution)
    return installed


class _RequirementTree:
    """The distributions that one distribution requires, directly and indirectly."""

    def __init__(self, installed: Installed) -> None:
        self._installed = installed
        self.visited: dict[str, set[str]] = {}
        """The requested extras, by name."""
        self.conflicts: list[str] = []

    def visit(self, name: str, extras: Iterable[str]) -> None:
        """Check what a distribution requires with these extras."""
        visited = self.visited.get(name)
        new = set(extras) - (visited or set())
        if visited is not None and not new:
            return
        self.visited[name] = (visited or set()) | new
        distribution = self._installed[name]
        for text in distribution.requires or ():
            requirement = _requirement(text, new if visited is not None else {*new, ""})
            if requirement is not None:
                self._check(f"{name} {distribution.version}", requirement)

    def _check(self, dependent: str, requirement: Requirement) -> None:
        name = normalize_name(requirement.name)
        distribution = self._installed.get(name)
        if distribution is None:
            self.conflicts.append(
                f"{dependent} requires {requirement.name}{requirement.specifier}, which is not installed"
            )
            return
        if not requirement.specifier.contains(distribution.version, prereleases=True):
            text = (
                f"{dependent} requires {requirement.name}{requirement.specifier}, "
                f"but {distribution.version} is installed"
            )
            if text not in self.conflicts:
                self.conflicts.append(text)
        self.visit(name, requirement.extras)


def _requirement(text: str, extras: Iterable[str]) -> Requirement | None:
    """Return a requirement that applies here with one of the extras (``""``: without any), or None."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return None  # the syntax of an older standard, which pip accepted at installation
    marker = requirement.marker
    if marker is None:
        return requirement if "" in extras else None
    return requirement if any(marker.evaluate({"extra": extra}) for extra in extras) else None


def _check_bytecode(handler: str, distributions: Iterable[Distribution]) -> Iterator[Finding]:
    """Yield a warning if modules that the handler imports have no bytecode."""
    compiled, count = 0, 0
    for distribution in distributions:
        for file in distribution.files or ():
            if file.suffix != ".py" or "__pycache__" in file.parts:
                continue
            source = str(distribution.locate_file(file))
            count += 1
            compiled += os.path.exists(importlib.util.cache_from_source(source))
    if count and compiled / count < MIN_COMPILED_SHARE:
        text = (
            f"{count - compiled} of the {count} modules it can import have no bytecode, and import several times more "
            f"slowly: {sys.executable} -m compileall -q {_site(distributions)}"
        )
        yield Finding(Level.WARNING, handler, text)


def _site(distributions: Iterable[Distribution]) -> str:
    return str(next(iter(distributions)).locate_file(""))
