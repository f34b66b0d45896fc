"""``[handlers.NAME.preset]``: what a handler's chats have in common. Pure.

.. code-block:: toml

    [handlers.reviewer.preset]
    system = "You review code. Be brief."
    temperature = 0.2
    max_tokens = 2000

    [[handlers.reviewer.preset.tools]]
    name = "read_file"
    description = "Read a file of the repository."
    parameters = { type = "object", properties = { path = { type = "string" } } }
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from handler_host._internal.suggestions import did_you_mean

_NUMBERS = {"temperature": (0.0, 2.0), "top_p": (0.0, 1.0)}
_COUNTS = {"max_tokens": 1, "seed": 0}


class PresetTool(msgspec.Struct, frozen=True, kw_only=True):
    """Function that the model may call in every chat; the client runs it."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    """JSON Schema."""


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """Preset of a handler's chats: its system prompt comes first; the rest is the default for requests without it."""

    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[PresetTool, ...] = ()


def parse_preset(table: object) -> Preset:
    """Return the preset of a table; raises ``ValueError`` with the key and what is wrong."""
    if not isinstance(table, Mapping):
        raise ValueError("must be a table")  # noqa: TRY004 - all flaws of a preset are ValueErrors
    _check_keys(table, Preset.__struct_fields__, "")
    values: dict[str, Any] = {}
    if "system" in table:
        values["system"] = _text(table["system"], "system")
    for key, (least, most) in _NUMBERS.items():
        if key in table:
            values[key] = _number(table[key], key, least, most)
    for key, least_count in _COUNTS.items():
        if key in table:
            values[key] = _count(table[key], key, least_count)
    if "stop" in table:
        values["stop"] = tuple(_text(item, "stop") for item in _items(table["stop"], "stop"))
    if "tools" in table:
        values["tools"] = tuple(
            _tool(item, f"tools[{number}]") for number, item in enumerate(_items(table["tools"], "tools"))
        )
    return Preset(**values)


def _tool(table: object, place: str) -> PresetTool:
    if not isinstance(table, Mapping):
        _fail(place, "must be a table with name, description and parameters")
    _check_keys(table, PresetTool.__struct_fields__, f"{place}.")
    parameters = table.get("parameters", {})
    if not isinstance(parameters, dict):
        _fail(f"{place}.parameters", "must be a table (a JSON Schema)")
    return PresetTool(
        name=_text(table.get("name"), f"{place}.name"),
        description=_text(table.get("description", " "), f"{place}.description").strip(),
        parameters=parameters,
    )


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"unknown key {place}{key}{did_you_mean(key, known)}")


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value:
        _fail(place, "must be a text, not empty")
    return value


def _number(value: object, place: str, least: float, most: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not least <= value <= most:  # type: ignore[operator]
        _fail(place, f"must be a number from {least:g} to {most:g}")
    return float(value)  # type: ignore[arg-type]


def _count(value: object, place: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        _fail(place, f"must be a whole number, {least} or more")
    return value


def _items(value: object, place: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        _fail(place, "must be a list")
    return list(value)


def _fail(place: str, text: str) -> NoReturn:
    raise ValueError(f"{place}: {text}")
