"""JSON Schema in the words that google-generativeai has for schemas, which are few. Pure.

Source: the message ``Schema`` of google-ai-generativelanguage 0.6.15. What it has no
word for is refused with its path, except for annotations, which constrain nothing,
and ``additionalProperties``, as Gemini makes up no properties.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from handler_host.chat import target_of
from handler_host.plugin import InvalidInput

TYPES = frozenset({"string", "number", "integer", "boolean", "array", "object"})
ANNOTATIONS = frozenset(
    {"$comment", "$defs", "$id", "$schema", "additionalProperties", "default", "definitions", "deprecated", "examples"}
    | {"example", "readOnly", "strict", "title", "writeOnly"}
)
_SAME: dict[str, tuple[str, type]] = {
    "description": ("description", str),
    "format": ("format_", str),
    "maxItems": ("max_items", int),
    "minItems": ("min_items", int),
    "nullable": ("nullable", bool),
}
"""Words whose value is taken as it is, with their name and type."""
_MOST_PARTS = 5_000
"""Subschemas of a converted schema: 20 levels with two references each would make a million of them."""
_DEEPEST = 32
"""Levels of a schema; what goes deeper refers to itself, or is nothing that a model could fill."""


def to_google(schema: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return ``schema`` as a ``Schema`` of Google's, with its names; ``place`` is the path to it in the request."""
    return _converted(schema, place, schema, 0, itertools.count(1))


def _converted(schema: Any, place: str, root: Mapping[str, Any], depth: int, numbers: Iterator[int]) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise InvalidInput(f"{place}: must be a schema (a JSON object)", param=place)
    if depth > _DEEPEST:
        raise InvalidInput(f"{place}: is nested too deeply, or refers to itself", param=place)
    if next(numbers) > _MOST_PARTS:
        raise InvalidInput(f"{place}: the schema has more than {_MOST_PARTS} parts with its references", param=place)
    schema, nullable = _plain(schema, place, root)
    made: dict[str, Any] = {"nullable": True} if nullable else {}
    for word, value in schema.items():
        inside = f"{place}.{word}"
        if word == "properties":
            made["properties"] = {
                name: _converted(part, f"{inside}.{name}", root, depth + 1, numbers)
                for name, part in _of(Mapping, value, inside).items()
            }
        elif word == "items":
            made["items"] = _converted(value, inside, root, depth + 1, numbers)
        elif word not in ANNOTATIONS:
            made |= _word(word, value, inside)
    if "type_" not in made:
        if "properties" not in made:
            raise InvalidInput(f"{place}.type is missing", param=f"{place}.type")
        made["type_"] = "OBJECT"
    return made


def _word(word: str, value: Any, place: str) -> dict[str, Any]:
    """Return what one word of JSON Schema is in Google's."""
    if word == "type":
        if not isinstance(value, str) or value not in TYPES:
            raise InvalidInput(f"{place}: must be one of {', '.join(sorted(TYPES))}", param=place)
        return {"type_": value.upper()}
    if word in ("enum", "const"):
        return {"enum": _strings([value] if word == "const" else value, place), "type_": "STRING", "format_": "enum"}
    if word == "required":
        return {"required": _strings(value, place)}
    if word in _SAME:
        name, kind = _SAME[word]
        return {name: _of(kind, value, place)}
    raise InvalidInput(
        f'{place}: google-generativeai has no word for it; leave it out, or set sdk = "google-genai" for the handler',
        param=place,
    )


def _plain(schema: Mapping[str, Any], place: str, root: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return a schema without references and without ``null`` among its types, and whether null was among them."""
    plain, nullable = dict(schema), False
    for _ in range(_DEEPEST):
        if "$ref" in plain:
            plain = _referenced(plain.pop("$ref"), place, root) | plain
            continue
        for word, null in (("allOf", None), ("anyOf", {"type": "null"}), ("type", "null")):
            only = _only(plain.get(word), null)
            if only is not None:
                nullable = nullable or null in plain[word]
                rest = {name: value for name, value in plain.items() if name != word}
                plain = {**rest, "type": only} if word == "type" else {**_of(dict, only, f"{place}.{word}"), **rest}
                break
        else:
            return plain, nullable
    raise InvalidInput(f"{place}: refers to itself", param=place)


def _only(options: Any, null: Any) -> Any:
    """Return the only option beside ``null``, or None if ``options`` is not a list with exactly one such option."""
    others = [option for option in options if option != null] if isinstance(options, list) else []
    return others[0] if len(others) == 1 else None


def _referenced(reference: object, place: str, root: Mapping[str, Any]) -> dict[str, Any]:
    target = target_of(reference, root) if isinstance(reference, str) else None
    if not isinstance(target, Mapping):
        raise InvalidInput(f"{place}.$ref: {reference!r} is missing in this schema", param=f"{place}.$ref")
    return dict(target)


def _of(kind: type, value: Any, place: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidInput(f"{place}: is of the wrong type", param=place)
    return value


def _strings(value: Any, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise InvalidInput(f"{place}: google-generativeai takes strings only here", param=place)
    return value
