"""Tool schemas for providers that take only an object at the top. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from handler_host.chat.types import ChatRequest
from handler_host.chat.validation import target_of

MAX_DEPTH = 16
"""References and combinations in each other, at the top of a schema."""

Schema = dict[str, Any]


def flatten_tool_schemas(request: ChatRequest) -> list[str]:
    """Merge the combinations at the top of the tools' schemas, and return the names of the words that were left out.

    OpenAI and Anthropic refuse ``anyOf``, ``oneOf`` and ``allOf`` there. The model sees the properties of all options,
    and must give those that every option requires. OpenAI also refuses an object without ``properties``. The time is
    linear in the size of the schemas.
    """
    names: dict[str, None] = {}
    for tool in request.tools or ():
        if tool.function.parameters:
            flattener = _Flattener(tool.function.parameters)
            tool.function.parameters = {"properties": {}, **flattener.run(tool.function.parameters, 0)}
            names |= dict.fromkeys(f"tools[].function.parameters.{word}" for word in sorted(flattener.words))
    return list(names)


class _Flattener:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._merged: set[str] = set()
        """References, each of which is merged once: they can repeat a part any number of times."""
        self.words: set[str] = set()

    def run(self, schema: Mapping[str, Any], depth: int) -> Schema:
        """Return a schema with the references and combinations at its top merged into it."""
        plain = dict(schema)
        for word in ("$ref", "allOf", "anyOf", "oneOf"):
            if word in plain:
                parts = [self.run(part, depth + 1) for part in self._parts(word, plain.pop(word), depth)]
                _merge(plain, parts, is_choice=word in ("anyOf", "oneOf"))
        return plain

    def _parts(self, word: str, value: Any, depth: int) -> list[Mapping[str, Any]]:
        """Return the schemas in the value of a word, and note the word if some of what it says is lost."""
        if word == "$ref":
            if not isinstance(value, str) or value in self._merged:
                return []
            self._merged.add(value)
            value = [target_of(value, self._root)]
        # The target of a reference may be in a place where nothing has checked it.
        parts = [part for part in value if isinstance(part, Mapping)] if isinstance(value, list) else []
        if depth == MAX_DEPTH:
            parts = []
        if word in ("anyOf", "oneOf") or not parts:
            self.words.add(word)
        return parts


def _merge(schema: Schema, parts: Sequence[Mapping[str, Any]], *, is_choice: bool) -> None:
    properties: Schema = {}
    for part in [*parts, schema]:
        properties |= _properties(part)
    required = [_required(part) for part in parts]
    if is_choice and required:
        required = [set.intersection(*required)]
    names = _required(schema).union(*required)
    for part in parts:
        for word, value in part.items():
            schema.setdefault(word, value)
    schema |= {"type": "object", "properties": properties, "required": sorted(names)}


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _required(schema: Mapping[str, Any]) -> set[str]:
    names = schema.get("required")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
