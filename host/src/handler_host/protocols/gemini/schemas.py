"""Translation of Google's ``Schema`` to JSON Schema. Pure.

Source: ai.google.dev/api/caching#Schema, a subset of OpenAPI 3.0: types in capitals, or as the numbers of protobuf's
enum; ``nullable`` in place of the type null; 64-bit numbers as strings.
"""

from __future__ import annotations

from typing import Any

from handler_host._internal.field_path import FieldPath
from handler_host.plugin.errors import InvalidInput

TYPES = ("TYPE_UNSPECIFIED", "STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")
"""Types, in the order of their numbers."""
_COUNTS = frozenset({"maxItems", "minItems", "maxLength", "minLength", "maxProperties", "minProperties"})
_SPELLINGS = {
    "any_of": "anyOf",
    "max_items": "maxItems",
    "max_length": "maxLength",
    "max_properties": "maxProperties",
    "min_items": "minItems",
    "min_length": "minLength",
    "min_properties": "minProperties",
    "property_ordering": "propertyOrdering",
}
_ANNOTATIONS = frozenset({"example", "propertyOrdering"})
"""Keywords that JSON Schema lacks, and that restrict nothing."""
_MAX_DEPTH = 64


def json_schema(schema: Any, place: FieldPath, depth: int = 0) -> dict[str, Any]:
    """Return a ``Schema`` as JSON Schema; ``place`` is the path to it. Keywords of both are kept."""
    if not isinstance(schema, dict):
        raise _invalid(place, "must be a Schema, which is an object")
    if depth > _MAX_DEPTH:
        raise _invalid(place, "nested too deeply")
    translated: dict[str, Any] = {}
    for spelling, value in schema.items():
        word = str(_SPELLINGS.get(spelling, spelling))
        inside = FieldPath(place, spelling)
        if word == "type" and value in (0, TYPES[0]):
            continue
        if word == "type":
            translated["type"] = _type(value, inside)
        elif word == "properties" and isinstance(value, dict):
            translated["properties"] = {
                name: json_schema(part, FieldPath(inside, name), depth + 1) for name, part in value.items()
            }
        elif word == "items":
            translated["items"] = json_schema(value, inside, depth + 1)
        elif word == "anyOf" and isinstance(value, list):
            translated["anyOf"] = [
                json_schema(part, FieldPath(inside, number), depth + 1) for number, part in enumerate(value)
            ]
        elif word in _COUNTS:
            translated[word] = _count(value, inside)
        elif word not in _ANNOTATIONS and word != "nullable" and not (word == "format" and value == "enum"):
            translated[word] = value
    return _nullable(translated) if schema.get("nullable") else translated


def _type(value: Any, place: FieldPath) -> str:
    if isinstance(value, int) and 0 < value < len(TYPES):
        return TYPES[value].lower()
    if isinstance(value, str) and value.upper() in TYPES[1:]:
        return value.lower()
    raise _invalid(place, f"must be one of {', '.join(TYPES[1:])}, not {value!r}")


def _count(value: Any, place: FieldPath) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise _invalid(place, f"must be a number, not {value!r}") from None


def _invalid(place: FieldPath, text: str) -> InvalidInput:
    return InvalidInput(f"{place}: {text}", param=str(place))


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(schema.get("enum"), list):
        schema["enum"] = [*schema["enum"], None]
    if "type" in schema:
        schema["type"] = [schema["type"], "null"]
    elif isinstance(schema.get("anyOf"), list):
        schema["anyOf"].append({"type": "null"})
    return schema
