"""The native routes as an OpenAPI document, made of what is known of the operations now.

A handler's operations are known from its manifest, and their schemas from its worker, once it
was active; until then an operation takes and gives any JSON. The module is imported when the document
is first asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from handler_host._internal.versions import __version__
from handler_host.lifecycle.reports import HandlerStatus, OperationReport

VERSION = "3.1.0"
"""Of OpenAPI: the first whose schemas are JSON Schema as msgspec writes it."""

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code", "request_id"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The path to the offending field."},
                "code": {"type": "string", "description": "Stable; see the reference of routes."},
                "request_id": {"type": "string"},
                "retry_after": {"type": "number", "description": "Seconds."},
                "details": {"type": "object"},
            },
        }
    },
}
FAILURE = {
    "description": "A refusal or failure; its code says which.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")


def document(statuses: Iterable[HandlerStatus], *, keys: bool) -> dict[str, Any]:
    """Return the document for these handlers; ``keys``: whether consumers need one."""
    schemas: dict[str, Any] = {"Error": ERROR}
    paths: dict[str, Any] = {}
    for status in statuses:
        for report in status.operations or ():
            paths[f"/v1/handlers/{status.name}/{report.name}"] = {"post": _operation(status, report, schemas)}
    found: dict[str, Any] = {
        "openapi": VERSION,
        "info": {"title": "handler-host", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if keys:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def _operation(status: HandlerStatus, report: OperationReport, schemas: dict[str, Any]) -> dict[str, Any]:
    prefix = f"{status.name}.{report.name}"
    response = _hoisted(report.output_schema, f"{prefix}.answer", schemas)
    whole = {} if report.streams else response
    content: dict[str, Any] = {"application/json": {"schema": whole}}
    text = "With `Accept: text/event-stream` the answer comes as events."
    if report.streams is not False:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    if report.streams:
        text = (
            "With `Accept: text/event-stream` each piece is a `data` event; `end` or `error` is the last one. "
            "Else the pieces are joined to one answer."
        )
    found: dict[str, Any] = {
        "operationId": prefix,
        "tags": [status.name],
        "summary": report.summary,
        "description": text,
        "requestBody": {
            # A request without a body counts as one of an empty object.
            "required": not _takes_empty_object(report.input_schema or {}, _definitions(report.input_schema), set()),
            "content": {
                "application/json": {"schema": _hoisted(report.input_schema, f"{prefix}.request", schemas)},
            },
        },
        "responses": {"200": {"description": "The answer.", "content": content}, "default": FAILURE},
    }
    if report.streams and report.output_schema is not None:
        found["x-piece"] = response
    return found


def _definitions(schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the definitions of a schema; a plugin may send any JSON in their place."""
    definitions = (schema or {}).get("$defs")
    return definitions if isinstance(definitions, dict) else {}


def _takes_empty_object(schema: object, definitions: dict[str, Any], followed: set[str], depth: int = 8) -> bool:
    """Return whether ``{}`` fits a schema of an operation's request, as far as required fields decide it.

    A plugin may send any schema: each definition is ``followed`` once, and beyond ``depth`` references and alternatives
    the result is True.
    """
    if not isinstance(schema, dict) or not depth:
        return True
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    if name in definitions:
        if name in followed:
            return False  # True would have ended the search
        followed.add(name)
        return _takes_empty_object(definitions[name], definitions, followed, depth - 1)
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list):
        return any(_takes_empty_object(option, definitions, followed, depth - 1) for option in options)
    return schema.get("type", "object") == "object" and not schema.get("required")


def _hoisted(schema: dict[str, Any] | None, prefix: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a schema for its place in the document, its definitions moved to where the document has them."""
    if schema is None:
        return {}

    def name_of(name: str) -> str:
        return _NOT_IN_NAMES.sub("_", f"{prefix}.{name}")

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(item) for item in value]
        if not isinstance(value, dict):
            return value
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            rest = {key: moved(item) for key, item in value.items() if key not in ("$ref", "$defs")}
            return {**rest, "$ref": f"#/components/schemas/{name_of(reference.removeprefix('#/$defs/'))}"}
        mapping = value.get("mapping")
        found = {key: moved(item) for key, item in value.items() if key != "$defs"}
        if isinstance(mapping, dict) and "propertyName" in value:
            # A discriminator's references are plain texts.
            found["mapping"] = {tag: moved({"$ref": target})["$ref"] for tag, target in mapping.items()}
        return found

    for name, definition in _definitions(schema).items():
        schemas[name_of(name)] = moved(definition)
    result: dict[str, Any] = moved(schema)
    return result
