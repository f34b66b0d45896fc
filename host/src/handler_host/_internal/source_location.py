"""Where something stands that a message is about: an object in its source, a key in a TOML file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?")
_WORD = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY = re.compile(rf"\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*=")


def place_of(thing: Any) -> str:
    """Return ``file:line`` of a class, function or method, or the empty text if its source is not there."""
    code = getattr(inspect.unwrap(thing), "__code__", None)
    if code is not None:  # nothing is read for it: each operation has its place noted
        return f"{code.co_filename}:{code.co_firstlineno}"
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return ""


def in_brackets(place: str) -> str:
    """Return a place as the end of a sentence, or nothing if there is none."""
    return f" ({place})" if place else ""


def line_of(text: str, path: Sequence[str]) -> int | None:
    """Return the line of a TOML text that sets the key with this path, or opens its table; None if none does.

    Good enough for a message: what looks like a key within a text of several lines is taken for one.
    """
    wanted = tuple(path)
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _HEADER.fullmatch(line), _KEY.match(line)
        if header is not None:
            table = _words(header[1])
        if header is None and key is None:
            continue
        here = table if key is None else table + _words(key[1])
        if here[: len(wanted)] == wanted:
            return number
    return None


def _words(key: str) -> tuple[str, ...]:
    return tuple(word.strip("\"'") for word in re.findall(_WORD, key))
