"""The import hook: modules of allowed packages run from the cache of rewritten code.

What is needed in a process that serves: no parser, no compiler.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from handler_host.lean import native
from handler_host.lean.cache import CacheError, NotCompiled, PackageCache, as_directories, package_directory
from handler_host.lean.runtime import FailureCallback, adopt, execute, hide_from_warnings, name_owners, observe_failures


class Installation(NamedTuple):
    """What :func:`install` did."""

    lean: tuple[str, ...]
    """The packages whose imports are lazy from now on."""
    eager: dict[str, str]
    """The packages that stay as they are, and why."""


class LeanPackage(NamedTuple):
    """The compiled code of one package."""

    cache: PackageCache
    children: dict[str, tuple[str, ...]]


class LeanLoader(importlib.machinery.SourceFileLoader):
    """A loader of one module that takes its rewritten code, else runs as it is written."""

    def __init__(self, name: str, path: str, package: LeanPackage) -> None:
        super().__init__(name, path)
        self._package = package

    @hide_from_warnings
    def exec_module(self, module: ModuleType) -> None:
        """Run the module, lazily if it was compiled from the source that is there."""
        children = self._package.children.get(self.name, ())
        entry = self._package.cache.load(self.name, self.path)
        if entry is None:
            super().exec_module(module)
            adopt(module, children)
        else:
            execute(module, entry, children)
        name_owners(module)


class LeanFinder:
    """A finder, on ``sys.meta_path``, of the modules of allowed packages."""

    def __init__(self) -> None:
        self.packages: dict[str, LeanPackage] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module of an allowed package; None for all others."""
        package = self._package_of(fullname)
        if package is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = LeanLoader(spec.loader.name, spec.loader.path, package)
        return spec

    def _package_of(self, name: str) -> LeanPackage | None:
        while name:
            package = self.packages.get(name)
            if package is not None:
                return package
            name = name.rpartition(".")[0]
        return None


def install(
    packages: Iterable[str] | Mapping[str, str],
    *,
    eager: Collection[str] = (),
    cache: Path | Iterable[Path] | None = None,
    on_failure: FailureCallback | None = None,
) -> Installation:
    """Make the imports of ``packages`` lazy, as far as they are compiled; call it before they are imported.

    ``packages`` are names like ``openai`` or ``google.generativeai``; a mapping has the version
    of each that was compiled. ``eager`` are modules whose import has effects that others need, and
    which are not deferred. It must be what they were compiled with. ``cache`` is the directory of the
    compiled code, or several that are searched in order (default: :func:`.cache.default_directories`).
    ``on_failure`` is called with name, module and error of each deferred import that fails.
    A package that is not compiled stays as it is, and the result says so; modules that are
    imported already stay too.
    """
    wanted = dict(packages) if isinstance(packages, Mapping) else dict.fromkeys(packages, "")
    if native.is_supported():
        native.enable(list(wanted), eager)
        return Installation(tuple(wanted), {})
    roots = as_directories(cache)
    finder = _finder()
    if on_failure is not None:
        observe_failures(on_failure)
    lean, skipped = [], {}
    for name, version in wanted.items():
        try:
            package = open_package(roots, name, version, eager)
        except CacheError as error:
            skipped[name] = str(error)
            continue
        finder.packages[name] = package
        for parent, children in package.children.items():
            module = sys.modules.get(parent)
            if module is not None:
                adopt(module, children)
        lean.append(name)
    return Installation(tuple(lean), skipped)


def open_package(roots: Iterable[Path], name: str, version: str, eager: Collection[str]) -> LeanPackage:
    """Open the compiled code of a package in the first directory that has it; raises ``CacheError``."""
    failure: CacheError = NotCompiled()
    for root in roots:
        store = PackageCache(package_directory(root, name, version, eager))
        try:
            return LeanPackage(store, store.open())
        except NotCompiled:
            continue
        except CacheError as error:
            failure = error
    raise failure


def _finder() -> LeanFinder:
    for finder in sys.meta_path:
        if isinstance(finder, LeanFinder):
            return finder
    finder = LeanFinder()
    sys.meta_path.insert(0, finder)
    return finder
