"""Modules whose import fails: it must fail where it is written, because an ``except ImportError`` may wait for it."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Mapping
from functools import cache

from handler_host.lean.exports import Source, absolute_name


def failing_modules(sources: Mapping[str, Source]) -> frozenset[str]:
    """Return the modules that are not installed, and those of the package that import such a module at their top."""
    imported = {name: _imported_modules(name, source) for name, source in sources.items()}
    failing = {
        target
        for targets in imported.values()
        for target in targets - sources.keys()
        if _is_missing(*target.split(".")[:2])
    }
    while True:
        more = {name for name, targets in imported.items() if name not in failing and targets & failing}
        if not more:
            return frozenset(failing)
        failing |= more


def _imported_modules(name: str, source: Source) -> set[str]:
    """Return the modules without which a module cannot be imported, its parent package among them."""
    try:
        tree = ast.parse(source.path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()
    modules = {name.rpartition(".")[0]} - {""}
    for statement in tree.body:
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
