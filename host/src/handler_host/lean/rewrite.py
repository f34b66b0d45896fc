"""From the source of a module to code without the imports that can wait, and the table of those."""

from __future__ import annotations

import ast
import builtins
import itertools
import sys
from collections.abc import Collection
from typing import NamedTuple

from handler_host.lean.analysis import ModuleLookups, Usage, import_name, is_type_checking, is_within
from handler_host.lean.cache import Entry
from handler_host.lean.exports import Exports, Origin, Source, absolute_name, mentions_all, with_parents
from handler_host.lean.failing import failing_imports
from handler_host.lean.runtime import ALIAS, FROM, LIVE, ROOT

LOADED_ANYWAY = frozenset(
    {"__future__", "abc", "ast", "asyncio", "base64", "binascii", "bisect", "builtins", "codecs", "collections"}
    | {"collections.abc", "contextlib", "contextvars", "copy", "copyreg", "dataclasses", "datetime", "enum", "errno"}
    | {"functools", "hashlib", "heapq", "importlib", "inspect", "io", "itertools", "json", "keyword", "locale"}
    | {"logging", "math", "numbers", "operator", "os", "os.path", "pathlib", "random", "re", "selectors", "signal"}
    | {"socket", "stat", "string", "struct", "sys", "textwrap", "threading", "time", "traceback", "types", "typing"}
    | {"typing_extensions", "warnings", "weakref"}
)
"""Modules that every worker has loaded: to defer their import brings nothing."""

Row = tuple[str, str, str | None, int]


class NotRewritten(Exception):
    """A module stays eager; the message says why."""


class _Import(NamedTuple):
    """One name that a top-level import binds."""

    name: str
    row: Row
    statement: ast.stmt
    alias: ast.alias
    can_wait: bool


class Rewriter:
    """Rewrites the modules of one package; ``eager`` are the modules whose import nobody may defer."""

    def __init__(self, sources: dict[str, Source], eager: Collection[str] = ()) -> None:
        self._sources = sources
        self.failing, self._guarded = failing_imports(sources)
        """Modules whose imports fail; modules whose importers handle that they fail."""
        self._eager = frozenset(eager) | self.failing
        self._exports = Exports(sources)
        self._modules = with_parents(sources)

    def rewrite(self, name: str, tree: ast.Module) -> Entry | None:
        """Return the rewritten module, None if it can run as it is written, and change ``tree``.

        Raises :class:`NotRewritten`.
        """
        if name in self._eager:
            raise NotRewritten("listed as eager, or needs a module that is not installed")
        path, is_package = self._sources[name]
        rewriter = _ModuleRewriter(
            name, is_package, self._modules, self._eager, self._exports, is_guarded=name in self._guarded
        )
        return rewriter.rewrite(tree, str(path))


class _ModuleRewriter:
    def __init__(
        self,
        name: str,
        is_package: bool,
        modules: Collection[str],
        eager: frozenset[str],
        exports: Exports,
        *,
        is_guarded: bool,
    ) -> None:
        self._name = name
        self._is_package = is_package
        self._modules = modules
        self._eager = eager
        self._exports = exports
        self._stars: dict[int, dict[str, Origin]] = {}
        self._is_guarded = is_guarded

    def rewrite(self, tree: ast.Module, path: str) -> Entry | None:
        owner = _find_owner(tree.body)
        usage = self._usage(tree, owner)
        if usage.namespace_use is not None:
            raise NotRewritten(f"line {usage.namespace_use} uses the module's namespace as data")
        imports = self._imports(tree.body, usage)
        hidden = self._hidden_submodules(imports, usage)
        usage.deleted -= hidden
        lazy = self._choose(imports, usage)
        lookups = ModuleLookups(self._modules)
        lookups.visit(tree)
        if not lazy and not self._is_package and not lookups.count:
            return None
        kept = self._kept_body(tree.body, imports, lazy, usage)
        if owner is not None:
            _guard_loop(owner)
        shadowed = [name for name, row in lazy.items() if self._has_submodule(name) and self._is_inside(name, row)]
        exported = sorted(set(_listed(tree.body)) & lazy.keys()) if owner is not None else []
        copied = _used_builtins(tree) - usage.bound - {imported.name for imported in imports} if lazy else set()
        tree.body = [statement for each in kept for statement in _without_deletes(each, hidden)]
        return Entry(
            compile(tree, path, "exec", dont_inherit=True),
            lazy,
            tuple(sorted(copied)),
            tuple(shadowed),
            tuple(sorted(hidden)),
            owner.name if owner is not None else "",
            tuple(exported),
            self._claims(exported, lazy),
        )

    def _claims(self, exported: list[str], lazy: dict[str, Row]) -> dict[str, tuple[str, ...]]:
        """Return the names of the exports in the modules that define them."""
        claims: dict[str, list[str]] = {}
        for name in exported:
            _, module, attribute, _ = lazy[name]
            if attribute is not None:
                origin = self._exports.definition(module, attribute)
                if origin.attribute is not None:
                    claims.setdefault(origin.module, []).append(origin.attribute)
        return {module: tuple(names) for module, names in claims.items()}

    def _usage(self, tree: ast.Module, owner: _Owner | None) -> Usage:
        usage = Usage(evaluates_annotations=not _has_future_annotations(tree.body))
        for statement in tree.body:
            is_import = isinstance(statement, ast.Import | ast.ImportFrom)
            if not is_import and (owner is None or statement not in owner.statements):
                usage.visit(statement)
        return usage

    def _hidden_submodules(self, imports: list[_Import], usage: Usage) -> set[str]:
        """Return the submodules that only a ``del`` names: deferred imports bind them later, and must not."""
        named = {imported.name for imported in imports} | usage.stored | usage.loaded
        return {name for name in usage.deleted - named if self._has_submodule(name)}

    def _imports(self, body: list[ast.stmt], usage: Usage) -> list[_Import]:
        """Return what the top-level imports bind, in order."""
        found: list[_Import] = []
        after_open_star = False
        for statement in body:
            if isinstance(statement, ast.Import):
                found += [self._plain(statement, alias, after_open_star) for alias in statement.names]
            elif isinstance(statement, ast.ImportFrom) and statement.module != "__future__":
                target = absolute_name(statement, self._name, self._is_package)
                if statement.names[0].name != "*":
                    found += [self._from(statement, alias, target, after_open_star) for alias in statement.names]
                    continue
                names = self._exports.of(target)
                if target == self._name:
                    # It binds what is bound already, and imports the submodules that `__all__` names.
                    names = None if any(map(mentions_all, body)) else {}
                if names is None or target in self._eager:
                    # Names bound before it may be bound by it again: only what comes later must not wait.
                    after_open_star = True
                    continue
                self._stars[id(statement)] = names
                found += [
                    self._star(statement, name, origin, after_open_star)
                    for name, origin in names.items()
                    if origin != Origin(self._name, name)
                ]
        return found

    def _plain(self, statement: ast.Import, alias: ast.alias, must_stay: bool) -> _Import:
        root = alias.name.partition(".")[0]
        is_implicit = "." in alias.name and alias.asname is None and root in sys.stdlib_module_names
        can_wait = not must_stay and not is_implicit and alias.name not in LOADED_ANYWAY | self._eager
        kind = ALIAS if alias.asname else ROOT
        return _Import(import_name(alias), (kind, alias.name, None, statement.lineno), statement, alias, can_wait)

    def _from(self, statement: ast.ImportFrom, alias: ast.alias, target: str, must_stay: bool) -> _Import:
        is_eager = target in self._eager or f"{target}.{alias.name}" in self._eager
        # A `try` around the import of this module handles that another distribution does not have the name.
        is_eager |= self._is_guarded and target not in self._modules
        can_wait = not must_stay and not is_eager and target not in LOADED_ANYWAY
        row = (FROM, target, alias.name, statement.lineno)
        return _Import(alias.asname or alias.name, row, statement, alias, can_wait)

    def _star(self, statement: ast.ImportFrom, name: str, origin: Origin, must_stay: bool) -> _Import:
        target = absolute_name(statement, self._name, self._is_package)
        stay = (LOADED_ANYWAY - {"__future__"}) | self._eager  # a __future__ statement has its place at the top only
        can_wait = not must_stay and not {target, origin.module} & stay
        if origin.attribute is None:
            row: Row = (ALIAS, origin.module, None, statement.lineno)
        else:
            row = (FROM, origin.module, origin.attribute, statement.lineno)
        return _Import(name, row, statement, ast.alias(name), can_wait)

    def _choose(self, imports: list[_Import], usage: Usage) -> dict[str, Row]:
        """Return the names whose imports wait: nothing else binds them, and the module does not need them at once."""
        rows: dict[str, Row] = {}
        stay = usage.bound | usage.loaded | vars(builtins).keys()
        stay |= {imported.name for imported in imports if not imported.can_wait or self._must_stay(imported, usage)}
        for imported in imports:
            name, row = imported.name, imported.row
            known = rows.get(name)
            if name in stay:
                continue
            if known is None or (known[0] != ROOT and row[0] != ROOT):
                rows[name] = row  # of several, the last one wins, as it would have
            elif known[0] == row[0]:
                modules = dict.fromkeys([*known[1].split(), row[1]])
                rows[name] = (ROOT, " ".join(modules), None, known[3])
            else:
                stay.add(name)
                del rows[name]
        return rows

    def _must_stay(self, imported: _Import, usage: Usage) -> bool:
        _, module, attribute, _ = imported.row
        # `del x` of a submodule: its import must have bound it before.
        if any(is_within(module, f"{self._name}.{name}") for name in usage.deleted):
            return True
        if not self._has_submodule(imported.name) or not self._is_package:
            return False
        is_submodule = (module, attribute) == (self._name, imported.name) or module == self._name
        return not is_submodule and not self._is_inside(imported.name, imported.row)

    def _has_submodule(self, name: str) -> bool:
        return self._is_package and f"{self._name}.{name}" in self._modules

    def _is_inside(self, name: str, row: Row) -> bool:
        """Return whether a name comes from inside of the submodule that has the same name."""
        return is_within(row[1], f"{self._name}.{name}")

    def _kept_body(
        self, body: list[ast.stmt], imports: list[_Import], lazy: dict[str, Row], usage: Usage
    ) -> list[ast.stmt]:
        by_statement: dict[int, list[_Import]] = {}
        for imported in imports:
            by_statement.setdefault(id(imported.statement), []).append(imported)
        kept: list[ast.stmt] = []
        for position, statement in enumerate(body):
            if id(statement) in self._stars:
                later = {node.name for node in body[position:] if isinstance(node, ast.FunctionDef | ast.ClassDef)}
                names = [one for one in by_statement.get(id(statement), ()) if one.name not in lazy]
                kept += [_bind_now(one) for one in names if one.name not in later or one.name in usage.loaded]
            elif id(statement) in by_statement and isinstance(statement, ast.Import | ast.ImportFrom):
                aliases = [one.alias for one in by_statement[id(statement)] if one.name not in lazy]
                if aliases:
                    statement.names = aliases
                    kept.append(statement)
            else:
                kept.append(statement)
        return kept


def _without_deletes(statement: ast.stmt, names: Collection[str]) -> list[ast.stmt]:
    """Return a statement without ``del`` of ``names``: nothing, if it was only that."""
    if not isinstance(statement, ast.Delete):
        return [statement]
    statement.targets = [
        target for target in statement.targets if not (isinstance(target, ast.Name) and target.id in names)
    ]
    return [statement] if statement.targets else []


def _bind_now(imported: _Import) -> ast.stmt:
    """Return the import of one name of a star import, from where it is defined."""
    kind, module, attribute, _ = imported.row
    if kind == FROM and attribute is not None:
        asname = imported.name if imported.name != attribute else None
        statement: ast.stmt = ast.ImportFrom(module, [ast.alias(attribute, asname)], 0)
    else:
        statement = ast.Import([ast.alias(module, imported.name if imported.name != module else None)])
    return ast.fix_missing_locations(ast.copy_location(statement, imported.statement))


class _Owner(NamedTuple):
    """The loop of an SDK that writes the package's name into ``__module__`` of all that it exports."""

    name: str
    variable: str
    statements: tuple[ast.Assign, ast.For]


def _find_owner(body: list[ast.stmt]) -> _Owner | None:
    for first, second in itertools.pairwise(body):
        match first, second:
            case (
                ast.Assign(targets=[ast.Name(id=variable)], value=ast.Call(func=ast.Name(id="locals"), args=[])),
                ast.For(iter=ast.Name(id="__all__")),
            ):
                for node in ast.walk(second):
                    match node:
                        case ast.Assign(
                            targets=[ast.Attribute(attr="__module__")], value=ast.Constant(value=str(name))
                        ):
                            return _Owner(name, variable, (first, second))
                        case ast.Call(
                            func=ast.Name(id="setattr"),
                            args=[_, ast.Constant(value="__module__"), ast.Constant(value=str(name))],
                        ):
                            return _Owner(name, variable, (first, second))
    return None


def _guard_loop(owner: _Owner) -> None:
    """Make the loop pass by names that are not bound yet: they get their ``__module__`` when they resolve."""
    loop = owner.statements[1]
    arguments: list[ast.expr] = [loop.iter, ast.Name(owner.variable, ast.Load())]
    call = ast.copy_location(ast.Call(ast.Name("__lean_bound__", ast.Load()), arguments, []), loop.iter)
    loop.iter = ast.fix_missing_locations(call)


def _used_builtins(tree: ast.Module) -> set[str]:
    """Return the builtins that a module loads by name, but those that are looked up at each use."""
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in _COPIED_BUILTINS and isinstance(node.ctx, ast.Load)
    }


_COPIED_BUILTINS = frozenset(name for name in vars(builtins) if not name.startswith("__")) - LIVE


def _listed(body: list[ast.stmt]) -> list[str]:
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                try:
                    return list(ast.literal_eval(value))
                except ValueError:
                    return []
    return []


def _has_future_annotations(body: list[ast.stmt]) -> bool:
    return any(
        isinstance(statement, ast.ImportFrom)
        and statement.module == "__future__"
        and any(alias.name == "annotations" for alias in statement.names)
        for statement in body
    )


def imported_modules(tree: ast.Module, name: str, is_package: bool) -> set[str]:
    """Return the modules that a module may import when it is executed: outside of functions and type checking."""
    found: set[str] = set()
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and is_type_checking(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            target = absolute_name(node, name, is_package)
            found.update([target, *(f"{target}.{alias.name}" for alias in node.names)])
        pending += ast.iter_child_nodes(node)
    return found
