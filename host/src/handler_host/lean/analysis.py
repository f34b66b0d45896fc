"""What the top level of a module binds, and what it uses while it is executed."""

from __future__ import annotations

import ast
from collections.abc import Collection
from typing import Any

NAMESPACE_CALLS = frozenset({"globals", "locals", "vars", "dir"})


def is_type_checking(test: ast.expr) -> bool:
    """Return whether an ``if`` is never taken at run time."""
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def is_within(module: str, package: str) -> bool:
    """Return whether a module is the package, or below it."""
    return module == package or module.startswith(f"{package}.")


def import_name(alias: ast.alias) -> str:
    """Return the name that ``import alias`` binds."""
    return alias.asname or alias.name.partition(".")[0]


class Usage(ast.NodeVisitor):
    """Names bound by other means than a top-level import, and names loaded during the module's own execution.

    Visit each statement of the module but its top-level imports. A name is ``loaded`` if
    the module needs it before its import has ended: in a statement, a base class, a decorator, a
    default, an annotation that is evaluated. Bodies of functions run later and do not count.
    """

    def __init__(self, *, evaluates_annotations: bool) -> None:
        self.bound: set[str] = set()
        self.loaded: set[str] = set()
        self.stored: set[str] = set()
        """Names that are assigned at the top level."""
        self.deleted: set[str] = set()
        self.namespace_use: int | None = None
        """Line of a use of the namespace as data (``globals()["x"]``), which would miss lazy names."""
        self._evaluates_annotations = evaluates_annotations
        self._class_depth = 0
        self._function_depth = 0
        self._harmless: set[int] = set()

    def visit_Import(self, node: ast.Import) -> None:
        """Note what a nested import binds."""
        self._bind(import_name(alias) for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Note what a nested import binds."""
        self._bind(alias.asname or alias.name for alias in node.names)

    def visit_Name(self, node: ast.Name) -> None:
        """Note a load, or a name of the module's own."""
        if self._function_depth:
            return
        if isinstance(node.ctx, ast.Load):
            self.loaded.add(node.id)
            return
        self._bind([node.id])
        if not self._class_depth:
            (self.deleted if isinstance(node.ctx, ast.Del) else self.stored).add(node.id)

    def visit_Global(self, node: ast.Global) -> None:
        """Note names that a function binds in the module."""
        self.bound.update(node.names)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """Note ``except ... as name``."""
        if node.name:
            self._bind([node.name])
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        """Note ``case ... as name``."""
        self._bind([node.name] if node.name else [])
        self.generic_visit(node)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        """Note ``case [*name]``."""
        self._bind([node.name] if node.name else [])

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        """Note ``case {**name}``."""
        self._bind([node.rest] if node.rest else [])
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        """Pass by what only type checkers see."""
        if is_type_checking(node.test):
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Note a name only if it gets a value; its annotation only if it is evaluated."""
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)
        elif not isinstance(node.target, ast.Name):
            self.visit(node.target)
        if self._evaluates_annotations:
            self.visit(node.annotation)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Accept ``globals()[name] = value``: it hides nothing."""
        for target in node.targets:
            if isinstance(target, ast.Subscript):
                self._harmless.add(id(target.value))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Note uses of the namespace as data."""
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        is_use = name in NAMESPACE_CALLS and not node.args and (name == "globals" or not self._function_depth)
        if name == "vars" and node.args and isinstance(node.args[0], ast.Subscript):
            is_another = isinstance(node.args[0].slice, ast.Constant)
            is_use = _is_sys_modules(node.args[0].value) and not is_another
        if is_use and id(node) not in self._harmless:
            self._note_namespace_use(node)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Note ``sys.modules[__name__].__dict__``."""
        if (
            node.attr == "__dict__"
            and isinstance(node.value, ast.Subscript)
            and _is_sys_modules(node.value.value)
            and isinstance(node.value.slice, ast.Name)
            and node.value.slice.id == "__name__"
            and id(node) not in self._harmless
        ):
            self._note_namespace_use(node)
        self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Note the defaults; the body runs later."""
        self._defaults(node.args)
        self._inside([node.body])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Note what the definition needs, and what the body does to the module."""
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """Note what the definition needs, and what the body does to the module."""
        self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Note what the class statement and its body need."""
        self._bind([node.name])
        for part in [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]:
            self.visit(part)
        self._class_depth += 1
        for statement in [*_type_parameters(node), *node.body]:
            self.visit(statement)
        self._class_depth -= 1

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._bind([node.name])
        for part in node.decorator_list:
            self.visit(part)
        self._defaults(node.args)
        if self._evaluates_annotations:
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            annotations = [argument.annotation for argument in every if argument is not None]
            for annotation in [*annotations, node.returns]:
                if annotation is not None:
                    self.visit(annotation)
        self._inside(node.body)

    def _defaults(self, arguments: ast.arguments) -> None:
        for default in [*arguments.defaults, *arguments.kw_defaults]:
            if default is not None:
                self.visit(default)

    def _inside(self, body: list[Any]) -> None:
        self._function_depth += 1
        for node in body:
            self.visit(node)
        self._function_depth -= 1

    def _bind(self, names: Any) -> None:
        if not self._function_depth and not self._class_depth:
            self.bound.update(names)

    def _note_namespace_use(self, node: ast.expr) -> None:
        if self.namespace_use is None:
            self.namespace_use = node.lineno


def _type_parameters(node: ast.ClassDef) -> list[Any]:
    return list(getattr(node, "type_params", ()))  # Python 3.12


def _is_sys_modules(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "modules"


class ModuleLookups(ast.NodeTransformer):
    """Rewrites ``sys.modules["name"]`` of the given modules to an import, which may be deferred still.

    In a ``try`` it stays, because there it can be a test of whether a module is loaded.
    """

    def __init__(self, modules: Collection[str]) -> None:
        self.count = 0
        self._modules = modules

    def visit_Try(self, node: ast.Try) -> ast.Try:
        """Leave the whole statement."""
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Rewrite one look-up."""
        self.generic_visit(node)
        match node:
            case ast.Subscript(
                value=ast.Attribute(value=ast.Name(id="sys"), attr="modules"),
                slice=ast.Constant(value=name),
                ctx=ast.Load(),
            ) if name in self._modules:
                self.count += 1
                call = ast.parse(f"__import__('importlib').import_module({name!r})", mode="eval").body
                for part in ast.walk(call):
                    ast.copy_location(part, node)
                return call
        return node
