"""The settings of a handler's own: how a manifest declares one, and whether a value fits."""

from __future__ import annotations

import copy
import math
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
"""What a declared type is called in messages, and what TOML makes of its values."""

_SHAPES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "description": ("string", ()),
    "required": ("boolean", ()),
    "enum": ("array", ()),
    "minimum": ("number", ("integer", "number")),
    "maximum": ("number", ("integer", "number")),
    "items": (None, ("array",)),
}
"""The type of each key of a declaration (None: the name of a type), and the declared types it goes with."""

KEYS = ("type", "default", *_SHAPES)
"""The keys of a declaration."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One declared setting."""

    type: str
    """``string``, ``integer``, ``number``, ``boolean``, ``array`` or ``object``."""
    default: Any = None
    description: str = ""
    required: bool = False
    enum: tuple[Any, ...] | None = None
    """The only values allowed."""
    minimum: float | None = None
    maximum: float | None = None
    items: str | None = None
    """The type of an array's items."""

    def flaw(self, value: object) -> str | None:
        """Return what is wrong with a value, or None if it fits."""
        text = _flaw_of_type(value, self.type)
        if text is None and self.items is not None and isinstance(value, list):
            flaws = ((number, _flaw_of_type(item, self.items)) for number, item in enumerate(value))
            text = next((f"item {number}: {flaw}" for number, flaw in flaws if flaw is not None), None)
        if text is not None:
            return text
        if self.enum is not None and value not in self.enum:
            meant = (
                nearest(value, (item for item in self.enum if isinstance(item, str)))
                if isinstance(value, str)
                else None
            )
            hint = f"; did you mean {meant!r}?" if meant is not None else ""
            return f"{value!r} is none of {', '.join(map(repr, self.enum))}{hint}"
        if isinstance(value, int | float):
            if self.minimum is not None and value < self.minimum:
                return f"{value!r} is less than {self.minimum}"
            if self.maximum is not None and value > self.maximum:
                return f"{value!r} is more than {self.maximum}"
        return None


class Mistake(ValueError):
    """A declaration is wrong at one of its keys."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key}: {text}")
        self.key = key
        self.text = text


def declare(table: Mapping[str, Any]) -> Setting:
    """Read a declaration, whose keys are among :data:`KEYS`. Raises :class:`Mistake`."""
    kind = table.get("type")
    if kind is None:
        raise Mistake("type", f"is missing; it is one of {', '.join(TYPES)}")
    _check_type_name("type", kind)
    for key, (wanted, goes_with) in _SHAPES.items():
        if key in table:
            _check_key(key, table[key], wanted)
            if goes_with and kind not in goes_with:
                raise Mistake(key, f"goes with type {' or '.join(goes_with)}, not with {kind!r}")
    plain = Setting(type=kind, items=table.get("items"))
    for number, value in enumerate(table.get("enum", ())):
        flaw = plain.flaw(value)
        if flaw is not None:
            raise Mistake("enum", f"value {number}: {flaw}")
    declared = Setting(**{**table, "enum": tuple(table["enum"]) if "enum" in table else None})
    if "default" in table:
        flaw = declared.flaw(table["default"])
        if flaw is not None:
            raise Mistake("default", flaw)
    return declared


def check(
    declared: Mapping[str, Setting], given: Mapping[str, Any], where: str, *, further: Collection[str] = ()
) -> dict[str, Any]:
    """Return the given settings with defaults filled in.

    Raises :class:`handler_host.plugin.errors.ConfigError` for what is not declared, does not fit, or is
    missing; ``where`` is the place that the message names, ``further`` are words of others to suggest.
    """
    for key, value in given.items():
        if key not in declared:
            hint = did_you_mean(key, {*declared, *further})
            if not hint.endswith("?"):
                own = ", ".join(sorted(declared)) or "none"
                hint = f"; the settings of this handler are: {own}"
            raise ConfigError(f"{where}: unknown key {key!r}{hint}", param=key)
        flaw = declared[key].flaw(value)
        if flaw is not None:
            raise ConfigError(f"{where}: {key}: {flaw}", param=key)
    complete: dict[str, Any] = {}
    for key, setting in declared.items():
        if key in given:
            complete[key] = given[key]
        elif setting.default is not None:
            complete[key] = copy.deepcopy(setting.default)
        elif setting.required:
            raise ConfigError(f"{where}: {key} is missing ({setting.description or setting.type}); set it there")
    return complete


def _flaw_of_type(value: object, kind: str) -> str | None:
    name, types = TYPES[kind]
    fits = isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool))
    if isinstance(value, float) and not math.isfinite(value):
        fits = False
    return None if fits else f"{value!r} is not {name}"


def _check_key(key: str, value: object, kind: str | None) -> None:
    if kind is None:
        _check_type_name(key, value)
    elif (flaw := _flaw_of_type(value, kind)) is not None:
        raise Mistake(key, flaw)


def _check_type_name(key: str, kind: object) -> None:
    if not isinstance(kind, str) or kind not in TYPES:
        hint = did_you_mean(kind, TYPES) if isinstance(kind, str) else ""
        raise Mistake(key, f"{kind!r} is no type{hint}")
