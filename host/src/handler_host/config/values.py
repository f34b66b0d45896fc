"""Decoding of single values: from TOML, a variable or a flag to the type of the key."""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from handler_host._internal.suggestions import nearest
from handler_host._internal.units import (
    DURATION_FORMS,
    SIZE_FORMS,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from handler_host.config import Config, Number

MAX_SHOWN = 80
"""Characters of a value that a message shows."""


class InvalidValue(ValueError):
    """A value that does not fit its key; the text begins with "must be"."""


_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_FORMS = {
    "count": "a whole number",
    "amount": "a number",
    "size": f"a size: {SIZE_FORMS}",
    "duration": f"a duration: {DURATION_FORMS}",
    "share": f'a share such as "10%", or a size: {SIZE_FORMS}',
    "percentage": 'a share such as "10%"',
}
_SHOW: dict[str, Callable[[float], str]] = {"size": format_size, "duration": format_duration}


@functools.cache
def keys_of(section: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the annotations of a section, by key."""
    return typing.get_type_hints(section, include_extras=True)


SECTIONS: dict[str, type[msgspec.Struct]] = {
    name: kind
    for name, kind in keys_of(Config).items()
    if name not in ("data_dir", "models", "handlers", "launchers", "source")
}
"""The sections of the file except ``[models]``, ``[handlers.NAME]`` and ``[launchers.NAME]``, by name."""


def convert(annotation: Any, value: Any, *, text: bool, base: Path) -> Any:
    """Return ``value`` as its key's type; raises :class:`InvalidValue`.

    ``text`` marks a value of a variable or a flag, where lists and numbers are written
    as texts. Relative paths start at ``base``.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _number(arguments[1], value, text)
    if origin is typing.Literal:
        return _choice(arguments, value)
    if origin is tuple:
        return _items(arguments[0], value, text, base)
    if origin is dict:
        if not isinstance(value, dict):
            raise InvalidValue("must be a table")
        return {key: convert(arguments[1], item, text=text, base=base) for key, item in value.items()}
    if annotation is bool:
        return _boolean(value, text)
    # The other annotations are a text, a path, or one of them or None.
    return _path(value, base) if annotation is Path or Path in arguments else _plain(value)


def json_or_text(text: Any) -> Any:
    """Return the value of a variable whose key has no declared type: JSON where the text is JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, TypeError):
        return text


def show(value: object) -> str:
    """Return a value as the file writes it, shortened for a message."""
    try:
        # JSON has no nan and no inf, but TOML has.
        text = str(value) if isinstance(value, float) else msgspec.json.encode(value, enc_hook=str).decode()
    except (ValueError, TypeError, OverflowError, RecursionError):
        text = ascii(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _number(number: Number, value: Any, text: bool) -> int | float | None:
    if number.none is not None and value == number.none:
        return None
    form = _FORMS[number.written] + (f', or "{number.none}"' if number.none is not None else "")
    try:
        amount = _amount(number.written, value, text)
    except (ValueError, TypeError):
        quoted = isinstance(value, str) and value.strip().isdecimal() and not text
        raise InvalidValue(f"must be {form}{', without quotes' if quoted else ''}") from None
    show_bound = _SHOW.get(number.written, str)
    if amount < number.least:
        hint = "; without a unit it is bytes" if number.written == "size" and str(value).isdecimal() else ""
        raise InvalidValue(f"must be {show_bound(number.least)} or more{hint}")
    if amount > number.most:
        raise InvalidValue(f"must be {show_bound(number.most)} or less")
    return amount


def _amount(written: str, value: Any, text: bool) -> int | float:
    if written == "size":
        return parse_size(value)
    if written == "duration":
        return parse_duration(value)
    if written in ("share", "percentage"):
        if not isinstance(value, str) or not value.rstrip().endswith("%"):
            if written == "percentage":
                raise ValueError("not a percentage")
            return parse_size(value)
        share = float(value.rstrip().removesuffix("%")) / 100
        if not 0 <= share < 1 and not (share == 1 and written == "percentage"):
            raise ValueError("outside 0 % to 100 %")
        return share
    if text and isinstance(value, str):
        value = float(value) if written == "amount" else int(value)
    if not isinstance(value, int | float if written == "amount" else int) or isinstance(value, bool):
        raise TypeError(value)
    if math.isnan(value):
        raise ValueError("NaN is not a number")
    return value


def _boolean(value: Any, text: bool) -> bool:
    if text and isinstance(value, str):
        value = _WORDS.get(value.strip().lower(), value)
    if not isinstance(value, bool):
        quoted = isinstance(value, str) and value.lower() in ("true", "false")
        raise InvalidValue(f"must be true or false{', without quotes' if quoted else ''}")
    return value


def _choice(choices: tuple[str, ...], value: Any) -> str:
    for choice in choices:
        if value == choice:
            return choice
    suggestion = nearest(value, choices) if isinstance(value, str) else None
    hint = f"; did you mean {suggestion!r}?" if suggestion else ""
    raise InvalidValue(f"must be one of {', '.join(choices)}{hint}")


def _items(annotation: Any, value: Any, text: bool, base: Path) -> tuple[Any, ...]:
    if text and isinstance(value, str):
        value = [item.strip() for item in value.removeprefix("[").removesuffix("]").split(",") if item.strip()]
        value = [item.strip("\"'") for item in value]
    if not isinstance(value, list | tuple):
        raise InvalidValue(f"must be a list{', with brackets' if isinstance(value, str) else ''}")
    return tuple(convert(annotation, item, text=text, base=base) for item in value)


def _plain(value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise InvalidValue("must be a text of one line, not empty")
    return value


def _path(value: Any, base: Path) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidValue("must be a path")
    try:
        # Not resolved: the interpreter of a virtual environment is a link and must stay one.
        return (base / Path(value).expanduser()).absolute()
    except FileNotFoundError:
        raise InvalidValue("must be an absolute path: the working directory was removed") from None
    except (RuntimeError, OSError) as error:
        raise InvalidValue(f"must be a path on this machine: {error}") from None
