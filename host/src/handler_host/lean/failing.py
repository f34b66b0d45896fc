"""Modules whose import fails: it must fail where it is written, because an ``except ImportError`` may wait for it."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from handler_host.lean.analysis import is_within
from handler_host.lean.exports import Source, absolute_name


class FailingImports(NamedTuple):
    """Imports of a package that may fail."""

    modules: frozenset[str]
    """Modules that are not installed, and those of the package that import such a module at their top."""
    guarded: frozenset[str]
    """Modules of the package that others import in a ``try``, which handles what their imports raise."""


class _Imported(NamedTuple):
    """Modules that a module imports at its top."""

    always: set[str]
    """Those without which it cannot be imported, its parent package among them."""
    guarded: set[str]
    """Those in a ``try`` or a ``with``, which may handle that they fail."""


def failing_imports(sources: Mapping[str, Source]) -> FailingImports:
    """Return the imports of a package that fail, or that it handles if they fail."""
    imported = {name: _imported_modules(name, source) for name, source in sources.items()}
    guarded = {module for name, (_, targets) in imported.items() for module in targets if not is_within(name, module)}
    failing = {
        target
        for targets, _ in imported.values()
        for target in targets - sources.keys()
        if _is_missing(*target.split(".")[:2])
    }
    while True:
        more = {name for name, (targets, _) in imported.items() if name not in failing and targets & failing}
        if not more:
            return FailingImports(frozenset(failing), frozenset(guarded & sources.keys()))
        failing |= more


def _imported_modules(name: str, source: Source) -> _Imported:
    try:
        tree = ast.parse(source.path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return _Imported(set(), set())
    blocks = [statement for statement in tree.body if isinstance(statement, ast.Try | ast.With)]
    guarded = [statement for block in blocks for statement in block.body]
    parent = {name.rpartition(".")[0]} - {""}
    return _Imported(parent | _targets(tree.body, name, source), _targets(guarded, name, source))


def _targets(statements: Iterable[ast.stmt], name: str, source: Source) -> set[str]:
    modules: set[str] = set()
    for statement in statements:
        if isinstance(statement, ast.Import):
            modules.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            target = absolute_name(statement, name, source.is_package)
            modules |= {target, *(f"{target}.{alias.name}" for alias in statement.names if alias.name != "*")}
    return modules


@cache
def _is_missing(root: str, name: str = "") -> bool:
    """Return whether the distribution of ``root.name`` is not installed; False for what only an import can tell."""
    if root in sys.modules:
        return False
    try:
        spec = importlib.util.find_spec(root)
        if spec is None or not name or spec.origin is not None:
            return spec is None  # below a package with an `__init__` a name can be an attribute
        # Of a namespace package the distributions add a part each; its own finder wants the package imported.
        files = [file for location in spec.submodule_search_locations or () for file in os.listdir(location)]
    except (OSError, ValueError):
        return False  # a location may be of a finder of its own, as setuptools has it for editable installs
    return not any(file.partition(".")[0] == name for file in files)
