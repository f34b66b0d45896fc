"""The tables of ``handler.toml`` in the reference of plugins, generated from its types: ``make reference``.

    python -m handler_host.catalog.manifest_reference docs/reference/plugins.md

The page keeps its text; each table between ``<!-- manifest: NAME -->`` and ``<!-- end -->`` is replaced. Nothing of
the host imports this module.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handler_host.catalog import settings
from handler_host.catalog.manifest_schema import schema

_BLOCK = re.compile(r"(<!-- manifest: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TABLE_NAMES = {"operations": "NAME", "secrets": "NAME", "config": "KEY", "known_models": "MODEL"}
"""Section → name of its sub-tables in headings."""
_KINDS = {
    "string": "text",
    "boolean": "true or false",
    "number": "number",
    "integer": "whole number",
    "array": "list",
    "object": "table",
}


def page(text: str) -> str:
    """Return the page with its tables written again; raises ``KeyError`` for an unknown table name."""
    tables = {"keys": _key_table, "types": _type_table}
    return _BLOCK.sub(lambda match: f"{match[1]}\n{tables[match[2]]()}\n{match[3]}", text)


def _key_table() -> str:
    rows = ["| section | key | value | meaning |", "|---|---|---|---|"]
    for section, key, shape in _keys(schema()["properties"]):
        cells = (f"`[{section}]`" if section else "", f"`{key}`", _kind(shape), shape["description"])
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _keys(properties: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield section, key and schema of each key, in the order of the schema."""
    for name, shape in properties.items():
        if "patternProperties" in shape:
            (table,) = shape["patternProperties"].values()
            section = f"{name}.{_TABLE_NAMES[name]}"
        elif "properties" in shape:
            table, section = shape, name
        else:
            yield "", name, shape
            continue
        for key, inner in table["properties"].items():
            yield section, key, inner


def _kind(shape: dict[str, Any]) -> str:
    """Return the kind of a key's values in words."""
    if "enum" in shape:
        return "a type, see below" if len(shape["enum"]) > 1 else f"`{shape['enum'][0]}`"
    if "type" not in shape:
        return "any"
    if shape.get("items") == {"type": "string"}:
        return "list of texts"
    if "enum" in shape.get("items", {}):
        return "list of words"
    kinds = shape["type"] if isinstance(shape["type"], list) else [shape["type"]]
    return " or ".join(_KINDS[kind] for kind in kinds)


def _type_table() -> str:
    rows = ["| `type` of `[config.KEY]` | value | further keys |", "|---|---|---|"]
    for name, (words, _) in settings.TYPES.items():
        keys = [key for key, (_, types) in settings.SHAPES.items() if name in types]
        rows.append(f"| `{name}` | {words} | {', '.join(f'`{key}`' for key in keys)} |")
    return "\n".join(rows) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page again."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m handler_host.catalog.manifest_reference PAGE\n")
        return 2
    path = Path(arguments[0])
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
