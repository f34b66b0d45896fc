"""Tools of OpenAI's Responses API as functions of a chat, and back. Pure.

A chat knows functions only. Tools that take free text become functions of one string, and the tools of a namespace
functions with a name that no other tool has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from handler_host.chat import types as chat
from handler_host.protocols.custom_tools import custom_function

MAX_NAME_LENGTH = 64
"""Longest name of a function that all providers take."""
TYPES = ("function", "custom", "namespace")


class ToolModel(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of tools."""


class FunctionTool(ToolModel, tag_field="type", tag="function"):
    """A function that the model may call."""

    name: str
    parameters: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class CustomTool(ToolModel, tag_field="type", tag="custom"):
    """A tool that takes free text."""

    name: str
    description: str | None = None
    format: dict[str, Any] | None = None


class NamespaceTool(ToolModel, tag_field="type", tag="namespace"):
    """Tools under a common name; null stands for one that is left out."""

    name: str
    description: str | None = None
    tools: list[FunctionTool | CustomTool | None] = []


Tool = FunctionTool | CustomTool | NamespaceTool


class ToolName(NamedTuple):
    """Name of a tool, as the client knows it."""

    namespace: str | None
    name: str
    is_custom: bool = False


class ToolTable:
    """The tools of one request: their functions, and the names of these in both directions."""

    def __init__(self, tools: Iterable[tuple[str, Tool]]) -> None:
        flat = list(_flattened(tools))
        counts = Counter({(namespace, tool.name): 1 for _, namespace, tool, _ in flat})
        names = Counter(name for _, name in counts)
        self.functions: dict[str, chat.Tool] = {}
        """Functions, by their name; of two tools of one name the later one counts."""
        self._places: dict[str, str] = {}
        self._flat: dict[tuple[str | None, str], str] = {}
        self._client: dict[str, ToolName] = {}
        for place, namespace, tool, context in flat:
            is_unique = namespace is None or names[tool.name] == 1
            name = tool.name if is_unique else _prefixed(str(namespace), tool.name)
            self._flat[namespace, tool.name] = name
            self._client[name] = ToolName(namespace, tool.name, isinstance(tool, CustomTool))
            self.functions[name] = chat.Tool(function=_function(tool, name, context))
            self._places[name] = place

    @property
    def places(self) -> list[str]:
        """The path of each function's tool in the client's request."""
        return list(self._places.values())

    def function_name(self, namespace: str | None, name: str) -> str:
        """Return the function's name of a tool, also of one that the request does not have."""
        known = self._flat.get((namespace, name)) or self._flat.get((None, name))
        return known or (name if namespace is None else _prefixed(namespace, name))

    def client_name(self, function: str) -> ToolName:
        """Return the client's name of a function."""
        return self._client.get(function) or ToolName(None, function)


def skipped_tool(tool: dict[str, Any]) -> str | None:
    """Return the type of a tool that runs at the provider."""
    kind = tool.get("type")
    return kind if isinstance(kind, str) and kind not in TYPES else None


def _flattened(
    tools: Iterable[tuple[str, Tool]],
) -> Iterator[tuple[str, str | None, FunctionTool | CustomTool, str | None]]:
    """Yield path, namespace, tool and the namespace's description of each tool that is not a namespace."""
    for place, tool in tools:
        if isinstance(tool, NamespaceTool):
            for number, inner in enumerate(tool.tools):
                if inner is not None:
                    yield f"{place}.tools[{number}]", tool.name, inner, tool.description
        else:
            yield place, None, tool, None


def _prefixed(namespace: str, name: str) -> str:
    return f"{namespace}__{name}"[-MAX_NAME_LENGTH:]


def _function(tool: FunctionTool | CustomTool, name: str, context: str | None) -> chat.FunctionSpec:
    """Return the function of a tool; ``context`` is the description of its namespace."""
    description = "\n\n".join(text for text in (context, tool.description) if text) or None
    if isinstance(tool, CustomTool):
        return custom_function(name, description, tool.format)
    return chat.FunctionSpec(name=name, description=description, parameters=tool.parameters, strict=tool.strict)
