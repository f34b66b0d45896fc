"""The JSON Schema of ``handler.toml`` for editors; ``make reference`` writes it.

``python -m handler_host.catalog.manifest_schema`` prints it. It is built from the types and patterns
of the reader (``handler_host.catalog.manifest``). The reader also checks what a schema cannot
express: version ranges, and names that belong to the host.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from handler_host._internal.attribute_docs import attribute_docs
from handler_host.catalog import settings
from handler_host.catalog.manifest import (
    KEY,
    MODEL_NAME,
    OPERATION_NAME,
    SECRET_NAME,
    LeanNote,
    Manifest,
    OperationDeclaration,
    SecretDeclaration,
    Timeouts,
    WorkersNote,
)
from handler_host.catalog.settings import Setting
from handler_host.config.model_info import CAPABILITIES, MODALITIES, ModelInfo

_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_BOOLEAN: dict[str, Any] = {"type": "boolean"}
_AMOUNT: dict[str, Any] = {"type": ["string", "number"]}
_SETTING: dict[str, Any] = {
    "type": {"enum": list(settings.TYPES)},
    "default": {},
    "description": _TEXT,
    "required": _BOOLEAN,
    "enum": {"type": "array", "minItems": 1},
    "minimum": {"type": "number"},
    "maximum": {"type": "number"},
    "items": {"enum": list(settings.TYPES)},
    "format": {"enum": list(settings.FORMATS)},
}


def schema() -> dict[str, Any]:
    """Return the schema; its descriptions are the docstrings of the manifest's types."""
    operation = _described(OperationDeclaration, {"summary": _TEXT, "retry_on_crash": _BOOLEAN})
    secret = _described(SecretDeclaration, {"required": _BOOLEAN, "required_unless": _TEXTS, "description": _TEXT})
    setting = _described(Setting, {key: _SETTING[key] for key in settings.KEYS})
    timeouts = _described(Timeouts, dict.fromkeys(Timeouts.__struct_fields__, _AMOUNT), ' In seconds, or like "2m".')
    amount, price = {"type": "integer", "minimum": 1}, {"type": "number", "minimum": 0}
    model = _described(
        ModelInfo,
        {
            **dict.fromkeys(("context_length", "max_output_tokens"), amount),
            **{key: {"type": "array", "items": {"enum": list(MODALITIES)}} for key in ("input", "output")},
            "capabilities": {"type": "array", "items": {"enum": list(CAPABILITIES)}},
            **dict.fromkeys(("input_price", "cached_input_price", "output_price"), price),
        },
    )
    tables = {
        "title": _TEXT,
        "description": _TEXT,
        "requires_host": _TEXT,
        "operations": _tables(OPERATION_NAME.pattern, operation),
        "secrets": _tables(SECRET_NAME.pattern, secret),
        "config": _tables(KEY.pattern, setting, ["type"]),
        "known_models": _tables(MODEL_NAME.pattern, model),
        "memory_estimate": {**_AMOUNT},
        "timeouts": _table(timeouts),
        "workers": _table(
            _described(WorkersNote, {"max": {"type": "integer", "minimum": 1}, "preload": _TEXTS}),
        ),
        "lean": _table(
            _described(
                LeanNote,
                {
                    "packages": _TEXTS,
                    "eager": _TEXTS,
                    "environment": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            )
        ),
    }
    described = _described(Manifest, tables)
    estimate = described.pop("memory_estimate")
    estimate["description"] += ' In bytes, or like "80MB".'
    described["memory"] = _table({"estimate": estimate})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "handler.toml",
        **_table(described),
    }


def text() -> str:
    """Return the text of the published schema."""
    return json.dumps(schema(), indent=2) + "\n"


def _described(owner: type, shapes: dict[str, Any], suffix: str = "") -> dict[str, Any]:
    """Return the shapes with the docstrings of the owner's attributes."""
    docs = attribute_docs(owner)
    return {
        key: {**shape, "description": " ".join(docs[key].replace("``", "`").split()) + suffix}
        for key, shape in shapes.items()
    }


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
