"""JSON Schema of the configuration file, for editors.

It is built from the types of the configuration (``handler_host.config``) and the manifests of the
installed handlers. The host also checks what a schema cannot express, such as the range of ``"5m"``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from handler_host._internal.attribute_docs import attribute_docs
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.catalog.settings import Setting
from handler_host.config import Config, HandlerPolicy, InstanceConfig, Number
from handler_host.config.launchers import LauncherConfig
from handler_host.config.reference import OTHERS, Key, keys, section_text
from handler_host.config.values import SECTIONS, keys_of

Schema = dict[str, Any]

_NUMBER = r"\d+(\.\d+)?"
_SIZE = rf"^\s*{_NUMBER}\s*([kKmMgGtT][iI]?)?[bB]?\s*$"
_DURATION = rf"^\s*(({_NUMBER}\s*(ms|s|m|h|d)\s*)+|{_NUMBER}\s*)$"
_PERCENTAGE = rf"^\s*{_NUMBER}\s*%\s*$"
_MODEL_TARGET = r"^[^/{}]+(/.+)?$"
_MAX_SAFE_INTEGER = 2**53 - 1
"""Limits above it are left out: editors read numbers as floats."""


def config_schema(entries: Mapping[str, CatalogEntry]) -> Schema:
    """Return the schema; ``entries`` are the installed handlers, whose own settings it includes."""
    handlers = {
        "type": "object",
        "description": "A section for each handler, [handlers.NAME].",
        "properties": {name: _handler(entry) for name, entry in entries.items()},
        "additionalProperties": _handler(None),
    }
    launchers = {
        "type": "object",
        "description": "A section for each launcher of workers on other machines, [launchers.NAME].",
        "additionalProperties": {
            "type": "object",
            "properties": {name: _type(annotation) for name, annotation in keys_of(LauncherConfig).items()},
        },
    }
    models = {
        "type": "object",
        "description": "Names, or patterns with * and ?, that clients may request: HANDLER or HANDLER/MODEL.",
        "additionalProperties": _text(_MODEL_TARGET),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "host.toml",
        "description": "Configuration of handler-host.",
        **_table(
            {
                **_properties(OTHERS, Config),
                **{
                    name: {"description": _plain(section_text(name).summary), **_table(_properties(name, section))}
                    for name, section in SECTIONS.items()
                },
                "models": models,
                "handlers": handlers,
                "launchers": launchers,
            }
        ),
        "$defs": {
            "policy": _properties("defaults", HandlerPolicy, with_default=False),
            "instance": _table(
                {
                    name: {"description": _plain(" ".join(text.split())), **_type(keys_of(InstanceConfig)[name])}
                    for name, text in attribute_docs(InstanceConfig).items()
                }
            ),
        },
    }


def _handler(entry: CatalogEntry | None) -> Schema:
    """Return the schema of a handler's section; without a manifest its own settings are unknown."""
    policy = {key.name: {"$ref": f"#/$defs/policy/{key.name}"} for key in keys("defaults")}
    policy |= {name: {"$ref": f"#/$defs/instance/properties/{name}"} for name in InstanceConfig.__struct_fields__}
    if entry is None or entry.manifest is None:
        return {"type": "object", "properties": policy}
    manifest = entry.manifest
    settings = {name: _setting(setting) for name, setting in manifest.config.items()}
    return {"description": manifest.title or entry.name, **_table({**settings, **policy})}


def _properties(section: str, owner: type, *, with_default: bool = True) -> Schema:
    annotations = keys_of(owner)
    return {key.name: _key(key, annotations[key.name], with_default=with_default) for key in keys(section)}


def _key(key: Key, annotation: Any, *, with_default: bool) -> Schema:
    schema: Schema = {"description": _plain(f"{key.summary} {key.details}".strip()), **_type(annotation)}
    if with_default and key.default is not None:
        schema["default"] = tomllib.loads(f"value = {key.default}")["value"]
    return schema


def _type(annotation: Any) -> Schema:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        mark = arguments[1]
        return {"type": "string", "pattern": mark.pattern} if isinstance(mark, msgspec.Meta) else _number(mark)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if origin is UnionType and Path not in arguments and type(None) not in arguments:
        return {"anyOf": [_type(argument) for argument in arguments]}
    if annotation is bool:
        return {"type": "boolean"}
    if annotation is Any:
        return {}
    assert annotation in (str, Path) or {str, Path} & set(arguments), f"no schema for {annotation}"
    return {"type": "string", "minLength": 1}


def _number(number: Number) -> Schema:
    """Return the notations of a number: as itself, as a text with a unit, or the word for None."""
    limits: Schema = {"minimum": number.least}
    if number.most <= _MAX_SAFE_INTEGER:
        limits["maximum"] = number.most
    notations: dict[str, list[Schema]] = {
        "count": [{"type": "integer", **limits}],
        "amount": [{"type": "number", **limits}],
        "size": [{"type": "integer", **limits}, _text(_SIZE)],
        "duration": [{"type": "number", **limits}, _text(_DURATION)],
        "share": [_text(_PERCENTAGE), {"type": "integer", **limits}, _text(_SIZE)],
        "percentage": [_text(_PERCENTAGE)],
    }
    options = notations[number.written] + ([{"const": number.none}] if number.none is not None else [])
    return options[0] if len(options) == 1 else {"anyOf": options}


def _setting(setting: Setting) -> Schema:
    """Return the schema of a handler's own setting, from its declaration in the manifest."""
    schema: Schema = {"type": setting.type}
    for name in ("description", "default", "minimum", "maximum"):
        value = getattr(setting, name)
        if value not in (None, ""):
            schema[name] = value
    if setting.enum is not None:
        schema["enum"] = list(setting.enum)
    if setting.items is not None:
        schema["items"] = {"type": setting.items}
    return schema


def _table(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _text(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def _plain(text: str) -> str:
    return text.replace("``", "").replace("`", "")
