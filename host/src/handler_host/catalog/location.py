"""Where the module of an entry point is, found without importing anything of it.

The distribution's own root comes first. An editable install has only a pointer
there, of which each build backend has its own: ``.pth`` files with directories,
the finders of setuptools and of ``editables`` (their tables are read as
literals, their code is not run), and the project's directory in ``direct_url.json``.
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
    """Where a module is."""

    directory: str
    """The package, or the directory that the module is in."""
    is_package: bool
    on_path: bool
    """Whether it is in a directory of the path, and not in one that an editable install points to."""

    @property
    def manifest(self) -> str:
        """Where the manifest is if there is one."""
        return os.path.join(self.directory, FILE_NAME)


class _Record:
    """The files that a distribution's ``RECORD`` lists; none if there is no RECORD."""

    def __init__(self, directory: str) -> None:
        try:
            text = read_bytes(os.path.join(directory, "RECORD")).decode(errors="surrogateescape")
        except OSError:
            text = ""
        self.files = {line.rpartition(",")[0].rpartition(",")[0].strip('"') for line in text.splitlines()}

    def top(self, suffix: str) -> list[str]:
        return sorted(name for name in self.files if name.endswith(suffix) and "/" not in name)


def locate(module: str, distribution: Distribution, search_path: Sequence[str]) -> Location | None:
    """Return where the outermost regular package of ``module`` is, or the module itself, or None if it is nowhere.

    ``search_path`` is where Python looks; the distribution's own root and what it points to come first.
    """
    parts = module.split(".")
    root = distribution.root.path
    found = _in_directory(root, parts)
    if found is not None:
        return Location(*found, on_path=True)
    record = _Record(distribution.directory)
    for directory in _pointed_at(distribution, record):
        found = _in_directory(directory, parts)
        if found is not None:
            return Location(*found, on_path=False)
    found = _in_finder(distribution, record, parts)
    if found is not None:
        return Location(*found, on_path=False)
    for directory in search_path:
        found = _in_directory(directory, parts)
        if found is not None:
            return Location(*found, on_path=True)
    # What is left is what only Python's path hooks know, like archives. Of a top-level name nothing is executed.
    spec = PathFinder.find_spec(parts[0], [root, *search_path])
    if spec is None or spec.origin is None:
        return None
    return Location(os.path.dirname(spec.origin), spec.submodule_search_locations is not None, on_path=True)


def has_own_manifest(location: Location, distribution: Distribution) -> bool:
    """Tell whether there is a manifest, and it is this distribution's.

    A single module in a shared directory has it beside files of others, so there the RECORD must list it.
    """
    if not os.path.isfile(location.manifest):
        return False
    if location.is_package or not location.on_path or distribution.directory.endswith(".egg-info"):
        return True
    inside = os.path.relpath(location.manifest, distribution.root.path)
    return inside in _Record(distribution.directory).files


def _in_directory(directory: str, parts: Sequence[str]) -> tuple[str, bool] | None:
    """Look for a module in a directory as Python would; return its directory, and whether it is a package.

    Below a namespace package (a directory without ``__init__``) the search goes on; a
    regular package is the end of it, as only its own code knows where its modules are.
    """
    here = os.path.join(directory, parts[0])
    suffixes = all_suffixes()
    if any(os.path.isfile(f"{here}/__init__{suffix}") for suffix in suffixes):
        return here, True
    if any(os.path.isfile(here + suffix) for suffix in suffixes):
        return directory, False
    return _in_directory(here, parts[1:]) if len(parts) > 1 and os.path.isdir(here) else None


def _pointed_at(distribution: Distribution, record: _Record) -> Iterator[str]:
    """Yield the directories that an editable install points to."""
    yield from pth_directories(distribution.root.path, record.top(".pth") or None)
    project = _project_directory(distribution)
    if project is not None:
        yield os.path.join(project, "src")
        yield project


def _project_directory(distribution: Distribution) -> str | None:
    """Return the directory that an editable was installed from (PEP 610)."""
    try:
        told = msgspec.json.decode(read_bytes(os.path.join(distribution.directory, "direct_url.json")))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    match told:
        case {"url": str(url), "dir_info": {"editable": True}} if url.startswith("file://"):
            from urllib.parse import unquote, urlsplit

            try:
                path = unquote(urlsplit(url).path)
            except ValueError:
                return None
            below = told.get("subdirectory", "")
            path = os.path.join(path, below) if isinstance(below, str) else path
            return path if "\0" not in path else None
        case _:
            return None


def _in_finder(distribution: Distribution, record: _Record, parts: Sequence[str]) -> tuple[str, bool] | None:
    """Look for a module in the tables of the finders that an editable install has brought."""
    for name in record.top(".py"):
        if not name.startswith(("__editable__", "_editable_impl_")):
            continue
        for mapped, path in _mapping(os.path.join(distribution.root.path, name)).items():
            words = mapped.split(".")
            if list(parts[: len(words)]) != words:
                continue
            found = _at(path, parts[len(words) :])
            if found is not None:
                return found
    return None


def _at(path: str, rest: Sequence[str]) -> tuple[str, bool] | None:
    """Look at what a finder maps a name to: a package's directory or ``__init__``, or a module."""
    directory, base = os.path.split(path)
    if os.path.isfile(path):
        return directory, base.startswith("__init__.")
    if os.path.isdir(path) and not any(os.path.isfile(f"{path}/__init__{suffix}") for suffix in all_suffixes()):
        return _in_directory(path, rest) if rest else None
    return _in_directory(directory, [base])


def _mapping(path: str) -> dict[str, str]:
    """Return the names and paths that a finder's file maps, read as literals.

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
