"""The JSON Schema of ``handler.toml`` for editors; ``make reference`` writes it.

``python -m handler_host.catalog.manifest_schema`` prints it. It is built from the types and patterns
of the reader (``handler_host.catalog.manifest``). The reader also checks what a schema cannot
express: version ranges, and names that belong to the host.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from handler_host.catalog import manifest, settings

AMOUNT = {"type": ["string", "number"]}
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_SHAPES: dict[str, Any] = {
    "type": {"enum": list(settings.TYPES)},
    "default": {},
    "description": _TEXT,
    "required": {"type": "boolean"},
    "enum": {"type": "array", "minItems": 1},
    "minimum": {"type": "number"},
    "maximum": {"type": "number"},
    "items": {"enum": list(settings.TYPES)},
}


def schema() -> dict[str, Any]:
    """Return the schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "handler.toml",
        **_table(
            {
                "title": _TEXT,
                "description": _TEXT,
                "requires_host": {**_TEXT, "description": "Versions of the host, like >=0.1,<1."},
                "operations": _tables(
                    manifest.OPERATION_NAME.pattern, {"summary": _TEXT, "retry_on_crash": {"type": "boolean"}}
                ),
                "secrets": _tables(
                    manifest.SECRET_NAME.pattern, {"required": {"type": "boolean"}, "description": _TEXT}
                ),
                "config": _tables(manifest.KEY.pattern, {key: _SHAPES[key] for key in settings.KEYS}, ["type"]),
                "memory": _table({"estimate": {**AMOUNT, "description": 'Bytes, or like "80MB".'}}),
                "timeouts": _table(
                    {
                        key: {**AMOUNT, "description": 'Seconds, or like "2m".'}
                        for key in manifest.Timeouts.__struct_fields__
                    }
                ),
                "lean": _table(
                    {
                        "packages": {**_TEXTS, "description": "Checked versions, like openai==2.54.0."},
                        "eager": {**_TEXTS, "description": "Modules whose import must not be deferred."},
                    }
                ),
            }
        ),
    }


def text() -> str:
    """Return the text of the published schema."""
    return json.dumps(schema(), indent=2) + "\n"


def _table(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    table: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**table, "required": required} if required else table


def _tables(names: str, properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {f"^(?:{names})$": _table(properties, required)},
    }


if __name__ == "__main__":
    sys.stdout.write(text())
