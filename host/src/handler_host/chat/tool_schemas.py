"""Tool schemas for providers that take only an object at the top. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler_host.chat.types import ChatRequest
from handler_host.chat.validation import target_of

MAX_DEPTH = 16
"""References and combinations in each other, at the top of a schema."""

Schema = dict[str, Any]


def flatten_tool_schemas(request: ChatRequest) -> list[str]:
    """Merge the combinations at the top of the tools' schemas, and return the names of the words that were left out.

    OpenAI and Anthropic refuse ``anyOf``, ``oneOf`` and ``allOf`` there. The model sees the properties of all options,
    and must give those that every option requires. OpenAI also refuses an object without ``properties``.
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
        options = {word: plain.pop(word) for word in ("$ref", "allOf", "anyOf", "oneOf") if word in plain}
        for word, value in options.items():
            schemas = self._target(value) if word == "$ref" else value
            flat = [self.run(part, depth + 1) for part in schemas if isinstance(part, Mapping) and depth < MAX_DEPTH]
            required = [set(part.get("required", ())) for part in flat]
            if word in ("anyOf", "oneOf"):
                self.words.add(word)
                required = [set.intersection(*required)] if required else []
            properties: Schema = {}
            for part in [*flat, plain]:
                properties |= part.get("properties", {})
            names = set(plain.get("required", ())).union(*required)
            for part in flat:
                plain = {**part, **plain}
            plain |= {"type": "object", "properties": properties, "required": sorted(names)}
        return plain

    def _target(self, reference: str) -> list[Any]:
        if reference in self._merged:
            return []
        self._merged.add(reference)
        return [target_of(reference, self._root)]
