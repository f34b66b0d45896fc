"""The import hook: modules of allowed packages run from the cache of rewritten code.

What is needed in a process that serves: no parser, no compiler.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from handler_host.lean import native
from handler_host.lean.cache import CacheError, PackageCache, default_directory, package_directory
from handler_host.lean.runtime import FailureCallback, adopt, execute, name_owners, observe_failures


class Installation(NamedTuple):
    """What :func:`install` did."""

    lean: tuple[str, ...]
    """The packages whose imports are lazy from now on."""
    eager: dict[str, str]
    """The packages that stay as they are, and why."""


class _Package(NamedTuple):
    cache: PackageCache
    children: dict[str, tuple[str, ...]]


class LeanLoader(importlib.machinery.SourceFileLoader):
    """A loader of one module that takes its rewritten code, else runs as it is written."""

    def __init__(self, name: str, path: str, package: _Package) -> None:
        super().__init__(name, path)
        self._package = package

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
        self.packages: dict[str, _Package] = {}

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

    def _package_of(self, name: str) -> _Package | None:
        while name:
            package = self.packages.get(name)
            if package is not None:
                return package
            name = name.rpartition(".")[0]
        return None


def install(
    packages: Iterable[str],
    *,
    eager: Collection[str] = (),
    cache: Path | None = None,
    on_failure: FailureCallback | None = None,
) -> Installation:
    """Make the imports of ``packages`` lazy, as far as they are compiled; call it before they are imported.

    ``packages`` are names like ``openai`` or ``google.generativeai``. ``eager`` are modules
    whose import has effects that others need: nobody defers them. It must be what they were compiled
    with. ``cache`` is the directory of the compiled code (:func:`.cache.default_directory`).
    ``on_failure`` is called with name, module and error of each deferred import that fails.
    A package that is not compiled stays as it is, and the result says so; modules that are
    imported already stay too.
    """
    wanted = list(dict.fromkeys(packages))
    if native.is_supported():
        native.enable(wanted, eager)
        return Installation(tuple(wanted), {})
    root = default_directory() if cache is None else cache
    finder = _finder()
    if on_failure is not None:
        observe_failures(on_failure)
    lean, skipped = [], {}
    for name in wanted:
        store = PackageCache(package_directory(root, name, eager))
        try:
            index = store.open()
        except CacheError as error:
            skipped[name] = str(error)
            continue
        finder.packages[name] = _Package(store, index)
        for package, children in index.items():
            module = sys.modules.get(package)
            if module is not None:
                adopt(module, children)
        lean.append(name)
    return Installation(tuple(lean), skipped)


def _finder() -> LeanFinder:
    for finder in sys.meta_path:
        if isinstance(finder, LeanFinder):
            return finder
    finder = LeanFinder()
    sys.meta_path.insert(0, finder)
    return finder
