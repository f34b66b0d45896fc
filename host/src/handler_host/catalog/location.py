"""Locates the module of an entry point without importing it.

The distribution's own root comes first. An editable install has only a pointer there, and
each build backend has its own kind: ``.pth`` files with directories, the finders of setuptools
and of ``editables`` (their tables are read as literals, their code does not run), and the
project's directory in ``direct_url.json``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder, all_suffixes

import msgspec

from handler_host.catalog.dist_info import Distribution, read_bytes
from handler_host.catalog.manifest import FILE_NAME
from handler_host.catalog.roots import pth_directories


class Location(msgspec.Struct, frozen=True):
    """The location of a module."""

    directory: str
    """The package's directory, or the directory that has the module."""
    is_package: bool
    on_path: bool
    """Whether the directory is on the path; False where only an editable install points to it."""

    @property
    def manifest(self) -> str:
        """The path that a manifest has."""
        return os.path.join(self.directory, FILE_NAME)


class _Record:
    """The files in a distribution's ``RECORD``; empty without a RECORD."""

    def __init__(self, directory: str) -> None:
        try:
            text = read_bytes(os.path.join(directory, "RECORD")).decode(errors="surrogateescape")
        except OSError:
            text = ""
        self.files = {line.rpartition(",")[0].rpartition(",")[0].strip('"') for line in text.splitlines()}

    def top(self, suffix: str) -> list[str]:
        return sorted(name for name in self.files if name.endswith(suffix) and "/" not in name)


def locate(module: str, distribution: Distribution, search_path: Sequence[str]) -> Location | None:
    """Return the location of the outermost regular package of ``module``, or of the module itself; None if missing.

    The distribution's own root and its pointers come before ``search_path``, Python's path.
    """
    parts = module.split(".")
    root = distribution.root.path
    place = _in_directory(root, parts)
    if place is not None:
        return Location(*place, on_path=True)
    record = _Record(distribution.directory)
    for directory in _pointers(distribution, record):
        place = _in_directory(directory, parts)
        if place is not None:
            return Location(*place, on_path=False)
    place = _in_finder(distribution, record, parts)
    if place is not None:
        return Location(*place, on_path=False)
    for directory in search_path:
        place = _in_directory(directory, parts)
        if place is not None:
            return Location(*place, on_path=True)
    # Only Python's path hooks know archives and the like. Finding a top-level name executes nothing.
    spec = PathFinder.find_spec(parts[0], [root, *search_path])
    if spec is None or spec.origin is None:
        return None
    return Location(os.path.dirname(spec.origin), spec.submodule_search_locations is not None, on_path=True)


def has_own_manifest(location: Location, distribution: Distribution) -> bool:
    """Return whether the location has a manifest of this distribution.

    Beside a single module, in a directory that several distributions share, the RECORD must list the manifest.
    """
    if not os.path.isfile(location.manifest):
        return False
    if location.is_package or not location.on_path or not distribution.directory.endswith(".dist-info"):
        return True
    inside = os.path.relpath(location.manifest, distribution.root.path)
    return inside in _Record(distribution.directory).files


def _in_directory(directory: str, parts: Sequence[str]) -> tuple[str, bool] | None:
    """Return the directory of a module, found as Python does, and whether it is a package.

    The search continues below a namespace package (a directory without ``__init__``). It ends at
    a regular package, because only its own code knows where its modules are.
    """
    path = os.path.join(directory, parts[0])
    suffixes = all_suffixes()
    if any(os.path.isfile(f"{path}/__init__{suffix}") for suffix in suffixes):
        return path, True
    if any(os.path.isfile(path + suffix) for suffix in suffixes):
        return directory, False
    return _in_directory(path, parts[1:]) if len(parts) > 1 and os.path.isdir(path) else None


def _pointers(distribution: Distribution, record: _Record) -> Iterator[str]:
    """Yield the directories that an editable install points to."""
    yield from pth_directories(distribution.root.path, record.top(".pth") or None)
    project = _project_directory(distribution)
    if project is not None:
        yield os.path.join(project, "src")
        yield project


def _project_directory(distribution: Distribution) -> str | None:
    """Return the project directory of an editable install (PEP 610)."""
    try:
        origin = msgspec.json.decode(read_bytes(os.path.join(distribution.directory, "direct_url.json")))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    match origin:
        case {"url": str(url), "dir_info": {"editable": True}} if url.startswith("file://"):
            from urllib.parse import unquote, urlsplit

            try:
                path = unquote(urlsplit(url).path)
            except ValueError:
                return None
            subdirectory = origin.get("subdirectory", "")
            path = os.path.join(path, subdirectory) if isinstance(subdirectory, str) else path
            return path if "\0" not in path else None
        case _:
            return None


def _in_finder(distribution: Distribution, record: _Record, parts: Sequence[str]) -> tuple[str, bool] | None:
    """Return a module's directory from the tables of an editable install's finders."""
    for name in record.top(".py"):
        if not name.startswith(("__editable__", "_editable_impl_")):
            continue
        for mapped, path in _mapping(os.path.join(distribution.root.path, name)).items():
            words = mapped.split(".")
            if list(parts[: len(words)]) != words:
                continue
            place = _at(path, parts[len(words) :])
            if place is not None:
                return place
    return None


def _at(path: str, rest: Sequence[str]) -> tuple[str, bool] | None:
    """Return the directory of a finder's target: a package's directory or ``__init__``, or a module."""
    directory, base = os.path.split(path)
    if os.path.isfile(path):
        return directory, base.startswith("__init__.")
    if os.path.isdir(path) and not any(os.path.isfile(f"{path}/__init__{suffix}") for suffix in all_suffixes()):
        return _in_directory(path, rest) if rest else None
    return _in_directory(directory, [base])


def _mapping(path: str) -> dict[str, str]:
    """Return the names and paths in a finder's table, read as literals.

    setuptools writes ``MAPPING = {name: path}``, and ``editables`` calls ``F.map_module(name, path)``.
    """
    import ast

    mapping: dict[object, object] = {}
    try:
        tree = ast.parse(read_bytes(path))
        for node in tree.body:
            match node:
                case (
                    ast.AnnAssign(target=ast.Name(id="MAPPING"), value=ast.expr() as value)
                    | ast.Assign(targets=[ast.Name(id="MAPPING")], value=value)
                ):
                    literal = ast.literal_eval(value)
                    if isinstance(literal, Mapping):
                        mapping |= literal
                case ast.Expr(
                    value=ast.Call(
                        func=ast.Attribute(attr="map_module"),
                        args=[ast.Constant(value=name), ast.Constant(value=target)],
                    )
                ):
                    mapping[name] = target
    except (OSError, SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return {}
    return {
        name: target
        for name, target in mapping.items()
        if isinstance(name, str) and isinstance(target, str) and "\0" not in target
    }
