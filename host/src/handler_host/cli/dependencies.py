"""What handlers' distributions depend on: versions that clash, and packages without bytecode. Nothing is imported."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution
from typing import TYPE_CHECKING

from handler_host.catalog.catalog import CatalogEntry
from handler_host.catalog.dist_info import normalised
from handler_host.cli.diagnosis import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Installed = Mapping[str, Distribution]
"""Distributions by normalised name."""

ENOUGH = 0.95
"""Share of the modules that has bytecode once all were compiled: a few are for other versions, and do not compile."""


def of_dependencies(entries: Iterable[CatalogEntry]) -> Iterator[Finding]:
    """Yield, for each handler that can run, what clashes below it, and whether it has bytecode."""
    try:
        import packaging.requirements  # noqa: F401 - an extra: what follows is skipped without it
    except ImportError:
        yield Finding("note", "versions", "not checked: pip install 'handler-host[tools]'")
        return
    found: dict[tuple[str, ...], Installed] = {}
    for entry in entries:
        if entry.problem is not None and entry.problem.state in ("invalid", "conflict"):
            continue
        path = (entry.root,) if entry.python is not None else (entry.root, *sys.path)
        installed = found.setdefault(path, _installed(path))
        tree = _Tree(installed)
        tree.follow(entry.distribution, ())
        remedy = (
            f"install versions that fit, or give {entry.name} an environment of its own: "
            f"handler-host env create {entry.name}"
        )
        for clash in tree.clashes:
            yield Finding("problem", entry.name, f"{clash}: {remedy}")
        if not tree.clashes:
            yield Finding("ok", entry.name, f"its {len(tree.seen)} distributions fit each other")
        yield from _of_bytecode(entry.name, [installed[name] for name in tree.seen])


def _installed(path: tuple[str, ...]) -> Installed:
    installed: dict[str, Distribution] = {}
    for found in Distribution.discover(path=list(dict.fromkeys(path))):
        name = found.metadata["Name"]
        if name:
            installed.setdefault(normalised(name), found)
    return installed


class _Tree:
    """What a distribution needs, directly and indirectly."""

    def __init__(self, installed: Installed) -> None:
        self._installed = installed
        self.seen: dict[str, set[str]] = {}
        """The extras that are asked for, by name."""
        self.clashes: list[str] = []

    def follow(self, name: str, extras: Iterable[str]) -> None:
        """Look at what a distribution requires with these extras."""
        known = self.seen.get(name)
        new = set(extras) - (known or set())
        if known is not None and not new:
            return
        self.seen[name] = (known or set()) | new
        found = self._installed[name]
        for text in found.requires or ():
            requirement = _requirement(text, new if known is not None else {*new, ""})
            if requirement is not None:
                self._check(f"{name} {found.version}", requirement)

    def _check(self, who: str, requirement: Requirement) -> None:
        name = normalised(requirement.name)
        found = self._installed.get(name)
        if found is None:
            self.clashes.append(f"{who} requires {requirement.name}{requirement.specifier}, which is not installed")
            return
        if not requirement.specifier.contains(found.version, prereleases=True):
            text = f"{who} requires {requirement.name}{requirement.specifier}, and {found.version} is installed"
            if text not in self.clashes:
                self.clashes.append(text)
        self.follow(name, requirement.extras)


def _requirement(text: str, extras: Iterable[str]) -> Requirement | None:
    """Return a requirement that applies here with one of the extras (``""``: with none), or None."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return None  # of an older standard; pip has understood it otherwise
    marker = requirement.marker
    if marker is None:
        return requirement if "" in extras else None
    return requirement if any(marker.evaluate({"extra": extra}) for extra in extras) else None


def _of_bytecode(handler: str, distributions: Iterable[Distribution]) -> Iterator[Finding]:
    """Yield a warning if what the handler imports has no bytecode."""
    have, count = 0, 0
    for distribution in distributions:
        for file in distribution.files or ():
            if file.suffix != ".py" or "__pycache__" in file.parts:
                continue
            source = str(distribution.locate_file(file))
            count += 1
            have += os.path.exists(importlib.util.cache_from_source(source))
    if count and have / count < ENOUGH:
        text = (
            f"{count - have} of the {count} modules that it may import have no bytecode, and import several times as "
            f"slowly: {sys.executable} -m compileall -q {_site(distributions)}"
        )
        yield Finding("warning", handler, text)


def _site(distributions: Iterable[Distribution]) -> str:
    return str(next(iter(distributions)).locate_file(""))
