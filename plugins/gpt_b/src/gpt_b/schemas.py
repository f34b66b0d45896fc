"""JSON Schemas in the spelling that the SDK's ``transform_schema`` reads. Pure."""

from __future__ import annotations

from typing import Any

_NAMED = ("properties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("additionalProperties", "contains", "items", "not", "propertyNames")
_UNTYPED = frozenset({"type", "$ref", "enum", "const", "anyOf", "oneOf", "allOf"})
"""Words with which a schema needs no type."""
_SHARED = ("title", "description", "$defs")
"""Words that stay beside the alternatives of a schema with a list of types."""


def respell(schema: Any) -> Any:
    """Return a schema with the same meaning, without lists of types, missing types and ``definitions``.

    Clients write a field that may be null as ``"type": ["string", "null"]``, on which the SDK fails.
    """
    if not isinstance(schema, dict):
        return schema
    respelled = {word: _inside(word, value) for word, value in schema.items()}
    if isinstance(respelled.get("definitions"), dict):
        respelled["$defs"] = {**respelled.pop("definitions"), **respelled.get("$defs", {})}
    if isinstance(schema.get("type"), list):
        return _with_alternatives(respelled)
    if not _UNTYPED & schema.keys():
        for word, kind in (("properties", "object"), ("items", "array")):
            if word in schema:
                return {"type": kind, **respelled}
    return respelled


def _inside(word: str, value: Any) -> Any:
    """Return the value of a word with respelled subschemas."""
    if word in _NAMED and isinstance(value, dict):
        return {name: respell(part) for name, part in value.items()}
    if word in _LISTED and isinstance(value, list):
        return [respell(part) for part in value]
    if word == "$ref" and isinstance(value, str):
        return value.replace("#/definitions/", "#/$defs/", 1)
    return respell(value) if word in _SINGLE else value


def _with_alternatives(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with ``anyOf`` instead of its list of types."""
    types = schema.pop("type")
    whole = {word: schema.pop(word) for word in _SHARED if word in schema}
    if "enum" in schema or "const" in schema:
        return whole | schema
    return {**whole, "anyOf": [{"type": "null"} if kind == "null" else {"type": kind, **schema} for kind in types]}
