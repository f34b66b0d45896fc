"""Values of the configuration as the file writes them: the inverse of ``handler_host.config.values``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date, time
from typing import Any, get_args

from handler_host._internal.units import parse_duration
from handler_host.config.fields import Number

_BARE_KEY = re.compile(r"[\w-]+", re.ASCII)
_SIZES = (("GB", 1024**3), ("MB", 1024**2), ("KB", 1024))


def toml_value(value: Any, annotation: Any) -> str | None:
    """Return the value of a key in TOML, or None where TOML has no word for it.

    ``annotation`` is the type of the key (``handler_host.config.values.keys_of``); None for a handler's own key.
    """
    number = next((extra for extra in get_args(annotation) if isinstance(extra, Number)), None)
    if value is None:
        return None if number is None or number.none is None else toml_literal(number.none)
    if number is not None:
        return _number(value, number.written)
    return toml_literal(value)


def toml_literal(value: Any) -> str:
    """Return a value in TOML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_key(key)} = {toml_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_literal, value)) + "]"
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(key: str) -> str:
    """Return a key in TOML, quoted where it must be."""
    return key if _BARE_KEY.fullmatch(key) else toml_literal(key)


def _number(value: float, written: str) -> str:
    if written in ("share", "percentage") and isinstance(value, float):
        return f'"{value * 100:.12g}%"'
    if written in ("size", "share"):
        unit, factor = next(((unit, factor) for unit, factor in _SIZES if value and value % factor == 0), ("", 1))
        return f'"{int(value) // factor}{unit}"' if unit else str(int(value))
    if written == "duration":
        text = _duration(value)
        return f'"{text}"' if parse_duration(text) == value else repr(value)
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:g}s"
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    steps = ((hours, "h"), (minutes, "m"), (seconds, "s"))
    return "".join(f"{number:g}{unit}" for number, unit in steps if number)
