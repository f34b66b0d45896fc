"""Values made from a JSON Schema, to call operations that have no example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 20
"""Nesting at which a schema that contains itself ends."""


def make_value(schema: Mapping[str, Any]) -> Any:
    """Return a small value that fits a schema of msgspec: required fields only, short texts, small numbers."""
    return _make(schema, schema.get("$defs", {}), 0)


def _make(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int) -> Any:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    options = schema.get("anyOf") or schema.get("oneOf")
    if options and depth < MAX_DEPTH:
        return _make(options[0], definitions, depth + 1)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object" or (kind is None and "properties" in schema):
        properties = schema.get("properties", {})
        required = schema.get("required", ()) if depth < MAX_DEPTH else ()
        return {key: _make(properties.get(key, {}), definitions, depth + 1) for key in required}
    if kind == "array":
        fixed = schema.get("prefixItems")
        if fixed:
            return [_make(item, definitions, depth + 1) for item in fixed]
        count = max(schema.get("minItems", 0), 1 if depth < MAX_DEPTH and isinstance(schema.get("items"), dict) else 0)
        return [_make(schema["items"], definitions, depth + 1)] * count
    if kind == "string":
        return "text".ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", 1000)]
    if kind in ("integer", "number"):
        return _number(schema)
    return {"boolean": False, "null": None}.get(str(kind), {})


def _number(schema: Mapping[str, Any]) -> int | float:
    lowest = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    highest = schema.get("maximum", schema.get("exclusiveMaximum", lowest))
    candidates = (1, lowest, lowest + 1, highest, highest - 1, schema.get("multipleOf", 1))
    return next((number for number in candidates if _fits(number, schema)), 1)


def _fits(number: float, schema: Mapping[str, Any]) -> bool:
    return bool(
        number >= schema.get("minimum", number)
        and number <= schema.get("maximum", number)
        and number > schema.get("exclusiveMinimum", number - 1)
        and number < schema.get("exclusiveMaximum", number + 1)
        and number % schema.get("multipleOf", number or 1) == 0
    )
