"""A handler's own settings: their declarations in the manifest, and the check of values."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from handler_host._internal.suggestions import did_you_mean, nearest
from handler_host.plugin.errors import ConfigError

TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "string": ("a text", (str,)),
    "integer": ("a whole number", (int,)),
    "number": ("a number", (int, float)),
    "boolean": ("true or false", (bool,)),
    "array": ("a list", (list,)),
    "object": ("a table", (dict,)),
}
"""The name of each declared type in messages, and the Python types of its values."""

SHAPES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "description": ("string", ()),
    "required": ("boolean", ()),
    "enum": ("array", ()),
    "minimum": ("number", ("integer", "number")),
    "maximum": ("number", ("integer", "number")),
    "items": (None, ("array", "object")),
    "format": ("string", ("string",)),
}
"""The type of each key of a declaration (None: the name of a type), and the declared types that may have it."""

FORMATS = ("url",)
"""The values of ``format``."""

KEYS = ("type", "default", *SHAPES)
"""The keys of a declaration."""


_URL = re.compile(r"https?://[^\s/]+(/\S*)?$")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of one setting."""

    type: str
    """``string``, ``integer``, ``number``, ``boolean``, ``array`` or ``object``."""
    default: Any = None
    """The value without one in ``[handlers.NAME]``."""
    description: str = ""
    """A sentence for people who configure the handler."""
    required: bool = False
    """Whether the handler cannot run without a value."""
    enum: tuple[Any, ...] | None = None
    """The valid values."""
    minimum: float | None = None
    """The smallest valid number."""
    maximum: float | None = None
    """The largest valid number."""
    items: str | None = None
    """The type of an array's items, or of an object's values."""
    format: str | None = None
    """``url``: the text is the address of a server, with ``http://`` or ``https://``."""

    def find_error(self, value: object) -> str | None:
        """Return the error of a value, or None if it is valid."""
        error = _type_error(value, self.type)
        if error is None and self.items is not None and isinstance(value, list):
            errors = ((number, _type_error(item, self.items)) for number, item in enumerate(value))
            error = next((f"item {number}: {text}" for number, text in errors if text is not None), None)
        if error is None and self.items is not None and isinstance(value, dict):
            name, _ = TYPES[self.items]
            invalid = ((key, item) for key, item in value.items() if _type_error(item, self.items) is not None)
            # Not the value itself: headers have keys.
            error = next((f"{key!r}: {type(item).__name__} is not {name}" for key, item in invalid), None)
        if error is not None:
            return error
        if self.enum is not None and value not in self.enum:
            words = (item for item in self.enum if isinstance(item, str))
            suggestion = nearest(value, words) if isinstance(value, str) else None
            hint = f"; did you mean {suggestion!r}?" if suggestion is not None else ""
            return f"{value!r} is not one of {', '.join(map(repr, self.enum))}{hint}"
        if self.format == "url" and isinstance(value, str) and _URL.match(value) is None:
            return f"{value!r} is not an address; write https://HOST/PATH, or http:// for a server without TLS"
        if isinstance(value, int | float):
            if self.minimum is not None and value < self.minimum:
                return f"{value!r} is less than {self.minimum}"
            if self.maximum is not None and value > self.maximum:
                return f"{value!r} is more than {self.maximum}"
        return None


class DeclarationError(ValueError):
    """A mistake in one key of a declaration."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key}: {text}")
        self.key = key
        self.text = text


def declare(table: Mapping[str, Any]) -> Setting:
    """Return the setting that a table with keys of :data:`KEYS` declares; raises :class:`DeclarationError`."""
    kind = table.get("type")
    if kind is None:
        raise DeclarationError("type", f"is missing; set it to one of {', '.join(TYPES)}")
    _check_type_name("type", kind)
    for key, (key_type, valid_with) in SHAPES.items():
        if key in table:
            _check_key(key, table[key], key_type)
            if valid_with and kind not in valid_with:
                raise DeclarationError(key, f"is valid only with type {' or '.join(valid_with)}, not with {kind!r}")
    if table.get("format", FORMATS[0]) not in FORMATS:
        raise DeclarationError("format", f"{table['format']!r} is not one of {', '.join(FORMATS)}")
    plain = Setting(type=kind, items=table.get("items"))
    for number, value in enumerate(table.get("enum", ())):
        error = plain.find_error(value)
        if error is not None:
            raise DeclarationError("enum", f"value {number}: {error}")
    setting = Setting(**{**table, "enum": tuple(table["enum"]) if "enum" in table else None})
    if "default" in table:
        error = setting.find_error(table["default"])
        if error is not None:
            raise DeclarationError("default", error)
    return setting


def check(
    declared: Mapping[str, Setting], values: Mapping[str, Any], where: str, *, other_keys: Collection[str] = ()
) -> dict[str, Any]:
    """Return the values with the defaults of missing ones.

    Raises :class:`handler_host.plugin.errors.ConfigError` for an undeclared key, an invalid value and a
    missing required one; ``where`` is the place for the message, ``other_keys`` are further suggestions.
    """
    for key, value in values.items():
        if key not in declared:
            hint = did_you_mean(key, {*declared, *other_keys})
            if not hint.endswith("?"):
                own = ", ".join(sorted(declared)) or "none"
                hint = f"; the settings of this handler are: {own}"
            raise ConfigError(f"{where}: unknown key {key!r}{hint}", param=key)
        error = declared[key].find_error(value)
        if error is not None:
            raise ConfigError(f"{where}: {key}: {error}", param=key)
    complete: dict[str, Any] = {}
    for key, setting in declared.items():
        if key in values:
            complete[key] = values[key]
        elif setting.default is not None:
            complete[key] = copy.deepcopy(setting.default)
        elif setting.required:
            raise ConfigError(f"{where}: missing key {key} ({setting.description or setting.type}); set it there")
    return complete


def _type_error(value: object, kind: str) -> str | None:
    name, types = TYPES[kind]
    is_valid = isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool))
    if isinstance(value, float) and not math.isfinite(value):
        is_valid = False
    if is_valid:
        return None
    # Tables of headers have keys, and a text in place of one is likely a header.
    return f"{type(value).__name__} is not {name}" if kind == "object" else f"{value!r} is not {name}"


def _check_key(key: str, value: object, kind: str | None) -> None:
    if kind is None:
        _check_type_name(key, value)
    elif (error := _type_error(value, kind)) is not None:
        raise DeclarationError(key, error)


def _check_type_name(key: str, kind: object) -> None:
    if not isinstance(kind, str) or kind not in TYPES:
        hint = did_you_mean(kind, TYPES) if isinstance(kind, str) else ""
        raise DeclarationError(key, f"{kind!r} is not a valid type{hint}")
