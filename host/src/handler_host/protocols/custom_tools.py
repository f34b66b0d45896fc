"""Tools that take free text, as functions of one string, and back. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from handler_host.chat import types as chat

INPUT = "input"
"""Name of the only argument."""


def custom_function(name: str, description: str | None, form: dict[str, Any] | None) -> chat.FunctionSpec:
    """Return a function for a tool that takes free text; a grammar of its input goes into the description."""
    texts = [description] if description else []
    grammar = (form or {}).get("grammar") if isinstance((form or {}).get("grammar"), dict) else form
    if isinstance(grammar, dict) and isinstance(grammar.get("definition"), str):
        texts.append(f"The input must fit this {grammar.get('syntax', '')} grammar:\n{grammar['definition']}")
    return chat.FunctionSpec(
        name=name,
        description="\n\n".join(texts) or None,
        parameters={
            "type": "object",
            "properties": {INPUT: {"type": "string", "description": "The whole input, as plain text."}},
            "required": [INPUT],
            "additionalProperties": False,
        },
    )


def custom_arguments(text: str) -> str:
    """Return the arguments of a call with this free text."""
    return msgspec.json.encode({INPUT: text}).decode()


def custom_input(arguments: str) -> str:
    """Return the free text of a call's arguments; arguments of another form count as the text itself."""
    try:
        content = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return arguments
    text = content.get(INPUT) if isinstance(content, dict) else None
    return text if isinstance(text, str) else arguments
