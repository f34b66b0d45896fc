"""What ``from module import *`` binds, read from the source of a package without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from handler_host.lean.analysis import import_name, is_type_checking


class Source(NamedTuple):
    """Where the source of a module is."""

    path: Path
    is_package: bool


class Origin(NamedTuple):
    """Where a name comes from: an attribute of a module, or (None) the module itself."""

    module: str
    attribute: str | None


def absolute_name(statement: ast.ImportFrom, name: str, is_package: bool) -> str:
    """Return the full name of the module that a ``from`` import in module ``name`` names."""
    if not statement.level:
        return statement.module or ""
    package = name if is_package else name.rpartition(".")[0]
    for _ in range(statement.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{statement.module}" if statement.module else package


def with_parents(modules: Iterable[str]) -> set[str]:
    """Return the submodules among modules, and the subpackages of these, also directories without ``__init__.py``."""
    found: set[str] = set()
    for module in modules:
        while "." in module and module not in found:
            found.add(module)
            module = module.rpartition(".")[0]
    return found


class Exports:
    """The exports of the modules of one package."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources
        self._known: dict[str, dict[str, Origin] | None] = {}
        self._names: dict[str, dict[str, Origin]] = {}

    def of(self, name: str) -> dict[str, Origin] | None:
        """Return what a star import of ``name`` binds, each name with its origin; None if that depends on the run."""
        if name not in self._known:
            self._known[name] = None  # a circle of star imports is left to the interpreter
            self._known[name] = self._read(name)
        return self._known[name]

    def definition(self, module: str, name: str) -> Origin:
        """Return where a name is defined, through the modules of the package that only pass it on."""
        seen: set[Origin] = set()
        origin = Origin(module, name)
        while origin not in seen and origin.attribute is not None:
            seen.add(origin)
            self.of(origin.module)
            origin = self._names.get(origin.module, {}).get(origin.attribute, origin)
        return origin

    def _read(self, name: str) -> dict[str, Origin] | None:
        source = self._sources.get(name)
        if source is None:
            return None
        try:
            tree = ast.parse(source.path.read_bytes(), source.path)
        except (OSError, SyntaxError, ValueError):
            return None
        reader = _Reader(name, source.is_package, self)
        reader.read(tree.body)
        self._names[name] = reader.names
        if reader.listed is not None:
            return {key: reader.names.get(key, Origin(name, key)) for key in reader.listed}
        if reader.is_open or reader.has_open_list:
            return None
        return {key: origin for key, origin in reader.names.items() if not key.startswith("_")}


class _Reader:
    """Reads the top level of one module."""

    def __init__(self, name: str, is_package: bool, exports: Exports) -> None:
        self.names: dict[str, Origin] = {}
        self.listed: list[str] | None = None
        """The value of ``__all__``."""
        self.has_open_list = False
        self.is_open = False
        """Whether a statement may bind names that cannot be told from the source."""
        self._name = name
        self._is_package = is_package
        self._exports = exports

    def read(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            if isinstance(statement, ast.If) and is_type_checking(statement.test):
                self.read(statement.orelse)
            elif mentions_all(statement):
                self._read_list(statement)
            elif isinstance(statement, ast.ImportFrom):
                self._read_from(statement)
            else:
                names = bound_names([statement])
                if names is None:
                    self.is_open = True
                for key in names or ():
                    self._bind(key, self._origin(statement, key))

    def _origin(self, statement: ast.stmt, key: str) -> Origin:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                if import_name(alias) == key and (alias.asname or "." not in alias.name):
                    return Origin(alias.name, None)
        return Origin(self._name, key)

    def _read_from(self, statement: ast.ImportFrom) -> None:
        target = absolute_name(statement, self._name, self._is_package)
        if statement.names[0].name != "*":
            for alias in statement.names:
                self._bind(alias.asname or alias.name, Origin(target, alias.name))
            return
        if target == self._name and self.listed is None and not self.has_open_list:
            return  # `from . import *` in a package: it binds what is bound already
        inner = self._exports.of(target)
        if inner is None:
            self.is_open = True
        for key, origin in (inner or {}).items():
            self._bind(key, origin)

    def _read_list(self, statement: ast.stmt) -> None:
        match statement:
            case (
                ast.Assign(targets=[ast.Name()], value=ast.expr() as value)
                | ast.AnnAssign(target=ast.Name(), value=ast.expr() as value)
            ) if self.listed is None:
                try:
                    self.listed = list(ast.literal_eval(value))
                except ValueError:
                    self.has_open_list = True
            case _:
                self.listed, self.has_open_list = None, True

    def _bind(self, key: str, origin: Origin) -> None:
        # What is bound twice, the module itself must be asked for.
        known = self.names.get(key, origin)
        self.names[key] = origin if known == origin else Origin(self._name, key)


def bound_names(body: Sequence[ast.stmt]) -> set[str] | None:
    """Return the names that statements bind whatever way they take, or None if that depends on the way."""
    names: set[str] = set()
    for statement in body:
        found = _bound_by(statement)
        if found is None:
            return None
        names |= found
    return names


def _bound_by(statement: ast.stmt) -> set[str] | None:
    match statement:
        case ast.Import():
            return {import_name(alias) for alias in statement.names}
        case ast.ImportFrom():
            names = {alias.asname or alias.name for alias in statement.names}
            return None if "*" in names else names
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {statement.name}
        case ast.Assign():
            return _stored(*statement.targets)
        case ast.AnnAssign():
            return _stored(statement.target) if statement.value is not None else set()
        case ast.Expr() | ast.Pass() | ast.Assert() | ast.AugAssign() | ast.Raise():
            return _stored(statement)
        case ast.If():
            return _same([bound_names(statement.body), bound_names(statement.orelse)])
        case ast.Try():
            handlers = [handler.body for handler in statement.handlers]
            ways = [
                [*statement.body, *statement.orelse],
                *(way for way in handlers if not isinstance(way[-1], ast.Raise)),
            ]
            rest = bound_names(statement.finalbody)
            ended = _same([bound_names(way) for way in ways])
            return None if rest is None or ended is None else rest | ended
        case _:
            return None


def _same(ways: list[set[str] | None]) -> set[str] | None:
    return ways[0] if all(way == ways[0] for way in ways) else None


def _stored(*nodes: ast.AST) -> set[str]:
    return {
        part.id
        for node in nodes
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }


def mentions_all(statement: ast.stmt) -> bool:
    """Return whether a statement, or one inside of it, makes or changes ``__all__``."""
    return any(_changes_all(node) for node in ast.walk(statement))


def _changes_all(node: ast.AST) -> bool:
    match node:
        case ast.Name(id="__all__", ctx=ast.Store() | ast.Del()):
            return True
        case ast.alias(name=name, asname=asname):
            return (asname or name) == "__all__"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="__all__"))):
            return True
        case _:
            return False
