"""JSON Schemas without the words that google-generativeai lacks, so that no usual tool is refused. Pure.

The model sees a looser schema; the words that are left out are named to the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt_c.schemas import ANNOTATIONS, TYPES
from handler_host.chat import ChatRequest, JsonSchemaFormat, target_of

MAX_DEPTH = 24
"""Levels of a loosened schema; deeper ones, and references to themselves, become text."""
MAX_PARTS = 2000
"""Subschemas of a loosened schema: references can repeat a part any number of times."""
_FORMATS = frozenset({"date-time", "double", "enum", "float", "int32", "int64"})
_ANNOTATIONS = ANNOTATIONS | {"propertyOrdering"}
_OWN = frozenset({"type", "description", "nullable", "format", "enum", "const", "properties", "required", "items"})
_COUNTS = ("minItems", "maxItems")
_TEXT: dict[str, Any] = {"type": "string"}

Schema = dict[str, Any]


def loosen(schema: Mapping[str, Any]) -> tuple[Schema, list[str]]:
    """Return a schema that google-generativeai can carry, and the words that were left out."""
    loosener = _Loosener(schema)
    return loosener.run(schema, 0), sorted(loosener.words)


def loosen_schemas(request: ChatRequest) -> list[str]:
    """Loosen the schemas of a request's tools and response, and return the names of the words that were left out."""
    names: dict[str, None] = {}
    for tool in request.tools or ():
        if tool.function.parameters:
            tool.function.parameters, words = loosen(tool.function.parameters)
            names |= dict.fromkeys(f"tools[].function.parameters.{word}" for word in words)
    form = request.response_format
    if isinstance(form, JsonSchemaFormat):
        form.json_schema.schema, words = loosen(form.json_schema.schema)
        names |= dict.fromkeys(f"response_format.json_schema.schema.{word}" for word in words)
    return list(names)


class _Loosener:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = MAX_PARTS
        self.words: set[str] = set()

    def run(self, part: Any, depth: int) -> Schema:
        """Return one part of the schema."""
        self._left -= 1
        if not isinstance(part, Mapping):
            return dict(_TEXT)
        if depth > MAX_DEPTH or self._left < 0:
            self.words.add("$ref")
            return dict(_TEXT)
        plain = self._merged(part)
        loose: Schema = {"type": self._type(plain)}
        if isinstance(plain.get("description"), str):
            loose["description"] = plain["description"]
        if plain.get("nullable") is True:
            loose["nullable"] = True
        self._add_values(loose, plain)
        if loose["type"] == "object":
            self._add_properties(loose, plain, depth)
        elif loose["type"] == "array":
            items = plain.get("items")
            loose["items"] = self.run(items if isinstance(items, Mapping) else _TEXT, depth + 1)
            loose |= {word: plain[word] for word in _COUNTS if type(plain.get(word)) is int}
        self.words |= plain.keys() - _OWN - _ANNOTATIONS - (set(_COUNTS) if loose["type"] == "array" else set())
        return loose

    def _merged(self, part: Mapping[str, Any]) -> Schema:
        """Return a part with its references and combinations merged into it."""
        plain = dict(part)
        for _ in range(MAX_DEPTH):
            if "$ref" in plain:
                plain = {**self._target(plain.pop("$ref")), **plain}
                continue
            for word in ("allOf", "anyOf", "oneOf"):
                if word in plain:
                    plain = self._combined(plain, word)
                    break
            else:
                return plain
        self.words.add("$ref")
        return {name: value for name, value in plain.items() if name in _OWN}

    def _combined(self, plain: Schema, word: str) -> Schema:
        options = plain.pop(word)
        options = [option for option in options if isinstance(option, Mapping)] if isinstance(options, list) else []
        if word == "allOf":
            for option in options:
                properties = {**_mapping(plain, "properties"), **_mapping(option, "properties")}
                plain = {**option, **plain, **({"properties": properties} if properties else {})}
            return plain
        others = [option for option in options if option.get("type") != "null"]
        if len(others) < len(options):
            plain["nullable"] = True
        if len(others) > 1:
            self.words.add(word)
        return {**others[0], **plain} if others else plain

    def _target(self, reference: Any) -> Mapping[str, Any]:
        if not isinstance(reference, str) or not reference.startswith("#"):
            self.words.add("$ref")
            return {}
        target = target_of(reference, self._root)
        return target if isinstance(target, Mapping) else {}

    def _type(self, plain: Schema) -> str:
        kinds = plain.get("type")
        names = [name.lower() for name in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(name, str)]
        if "null" in names:
            plain["nullable"] = True
        known = [name for name in names if name in TYPES]
        if len(known) > 1:
            self.words.add("type")
        if known:
            return known[0]
        if "properties" in plain:
            return "object"
        return "array" if "items" in plain else "string"

    def _add_values(self, loose: Schema, plain: Schema) -> None:
        values = [plain["const"]] if "const" in plain else plain.get("enum")
        if isinstance(values, list):
            if None in values:
                loose["nullable"] = True
            texts = [value for value in values if isinstance(value, str)]
            if loose["type"] == "string" and texts:
                loose["enum"] = texts
            else:
                self.words.add("enum")
        form = plain.get("format")
        if isinstance(form, str) and form in _FORMATS:
            loose["format"] = form
        elif form is not None:
            self.words.add("format")

    def _add_properties(self, loose: Schema, plain: Schema, depth: int) -> None:
        properties = _mapping(plain, "properties")
        if properties:
            loose["properties"] = {name: self.run(part, depth + 1) for name, part in properties.items()}
        required = plain.get("required")
        names = (
            [name for name in required if isinstance(name, str) and name in properties]
            if isinstance(required, list)
            else []
        )
        if names:
            loose["required"] = names


def _mapping(schema: Mapping[str, Any], word: str) -> Mapping[str, Any]:
    value = schema.get(word)
    return value if isinstance(value, Mapping) else {}
