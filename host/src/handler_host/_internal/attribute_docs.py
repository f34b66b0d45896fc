"""Docstrings of attributes, which only the source of a class has; for generated references, not for the host."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap


@functools.cache
def attribute_docs(owner: type) -> dict[str, str]:
    """Return the docstrings of a class's annotated attributes, by name."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(tree, ast.ClassDef)
    docs: dict[str, str] = {}
    for node, after in zip(tree.body, tree.body[1:], strict=False):
        match node, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = inspect.cleandoc(text)
    return docs
