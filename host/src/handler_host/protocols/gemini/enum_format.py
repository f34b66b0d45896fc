"""Responses that are one of a few words (``text/x.enum``), as JSON objects of one field, and back. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput

VALUE = "value"
"""Name of the only field."""
NAME = "enum"
"""Name of the schema, by which the encoder knows such a response."""


def enum_format(schema: dict[str, Any] | None, field: str) -> chat.JsonSchemaFormat:
    """Return the format for a schema with an ``enum`` of words; ``field`` is the path to the schema."""
    words = schema.get("enum") if schema is not None else None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise InvalidInput(f"{field}: text/x.enum needs a schema with an enum of words", param=field)
    return chat.JsonSchemaFormat(
        json_schema=chat.JsonSchema(
            name=NAME,
            schema={
                "type": "object",
                "properties": {VALUE: {"type": "string", "enum": words}},
                "required": [VALUE],
                "additionalProperties": False,
            },
        )
    )


def is_enum(request: chat.ChatRequest) -> bool:
    """Return whether the response to a request is one of a few words."""
    form = request.response_format
    return isinstance(form, chat.JsonSchemaFormat) and form.json_schema.name == NAME


def enum_word(text: str) -> str:
    """Return the word in the text of a response; a text of another form counts as the word itself."""
    try:
        content = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text
    word = content.get(VALUE) if isinstance(content, dict) else content
    return word if isinstance(word, str) else text
