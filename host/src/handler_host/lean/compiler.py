"""Compile packages for the hook; runs in a process of its own, never in one that serves.

Compiling litellm takes about 20 s of CPU and leaves 100 MB of garbage behind.
"""

from __future__ import annotations

import ast
import importlib.machinery
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from handler_host.lean.cache import CacheError, Entry, PackageCache, as_directories, package_directory
from handler_host.lean.exports import Source, with_parents
from handler_host.lean.rewrite import NotRewritten, Rewriter, imported_modules


class Compiled(NamedTuple):
    """What the compiler did with one package."""

    package: str
    modules: int
    rewritten: int
    lazy_names: int
    eager: dict[str, str]
    """Modules that stay eager, and why."""
    failing: frozenset[str]
    """Modules that the package imports, and whose import fails."""


class PackageMissing(Exception):
    """A package to compile is not installed as source."""


def find_sources(package: str) -> dict[str, Source]:
    """Return the source files of a package by module, without importing it; raises :class:`PackageMissing`."""
    path: list[str] | None = None
    spec = None
    for part in package.split("."):
        # Not the full name: a namespace package in another one (`google.cloud`) would need the outer one imported.
        spec = importlib.machinery.PathFinder.find_spec(part, path)
        if spec is None:
            raise PackageMissing(f"{package}: no module of this name is installed")
        path = list(spec.submodule_search_locations or ())
    if spec is None:
        raise PackageMissing(f"{package}: no module of this name is installed")
    sources: dict[str, Source] = {}
    if spec.origin is not None and spec.origin.endswith(".py"):
        sources[package] = Source(Path(spec.origin), bool(path))
    for location in path or ():
        _walk(Path(location), package, sources)
    return sources


def _walk(directory: Path, package: str, sources: dict[str, Source]) -> None:
    for item in sorted(os.scandir(directory), key=lambda item: item.name):
        stem = item.name.removesuffix(".py")
        if item.is_dir() and item.name.isidentifier() and item.name != "__pycache__":
            init = Path(item.path, "__init__.py")
            if init.is_file():
                sources[f"{package}.{item.name}"] = Source(init, True)
            _walk(Path(item.path), f"{package}.{item.name}", sources)
        elif item.name.endswith(".py") and stem.isidentifier() and stem != "__init__":
            sources.setdefault(f"{package}.{stem}", Source(Path(item.path), False))


def compile_package(
    package: str,
    *,
    version: str = "",
    eager: Collection[str] = (),
    cache: Path | Iterable[Path] | None = None,
    on_module: Callable[[], None] | None = None,
) -> Compiled:
    """Write the rewritten code of all modules of a package; raises :class:`PackageMissing` and ``CacheError``.

    ``cache`` is a directory, or several, of which the first that can be written is used
    (default: :func:`.cache.default_directories`). ``on_module`` is called before each module.
    """
    sources = find_sources(package)
    store = _create_store(package, version, eager, cache)
    if version and sources:
        store.remove_replaced(package, next(iter(sources.values())).path)
    rewriter = Rewriter(sources, eager)
    reached: set[str] = set()
    rewritten = lazy_names = 0
    stay: dict[str, str] = {}
    for name, (path, is_package) in sources.items():
        if on_module is not None:
            on_module()
        try:
            data = path.read_bytes()
            tree = ast.parse(data, path)
            reached |= imported_modules(tree, name, is_package)
            entry = rewriter.rewrite(name, tree)
        except NotRewritten as error:
            stay[name] = str(error)
            continue
        except (SyntaxError, ValueError, RecursionError) as error:
            stay[name] = f"cannot be parsed: {error}"  # a template, or of another Python; it is never imported
            continue
        if entry is not None:
            _store(store, name, path, data, entry)
            rewritten += bool(entry.table)
            lazy_names += len(entry.table)
    store.finish(_children(reached, sources))
    return Compiled(package, len(sources), rewritten, lazy_names, stay, rewriter.failing)


def _create_store(
    package: str, version: str, eager: Collection[str], cache: Path | Iterable[Path] | None
) -> PackageCache:
    failures: list[str] = []
    for root in as_directories(cache):
        store = PackageCache(package_directory(root, package, version, eager))
        try:
            store.create()
        except CacheError as error:
            failures.append(str(error))
        else:
            return store
    raise CacheError("; ".join(failures) or "no directory for compiled code; set LEAN_CACHE")


def _store(store: PackageCache, name: str, path: Path, data: bytes, entry: Entry) -> None:
    try:
        store.store(name, str(path), data, entry)
    except OSError as error:
        raise CacheError(f"{path} has gone while it was compiled: {error.strerror}") from error


def _children(reached: Iterable[str], sources: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return, by package, the submodules that an eager import somewhere would have bound in it."""
    children: dict[str, set[str]] = {}
    known = with_parents(sources)
    for module in reached:
        while module in known:
            parent, _, name = module.rpartition(".")
            children.setdefault(parent, set()).add(name)
            module = parent
    return {parent: tuple(sorted(names)) for parent, names in children.items()}
