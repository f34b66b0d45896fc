"""Locate the subject of a message: an object in its source file, a key in a TOML file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?")
_WORD = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY = re.compile(rf"\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*=")


def place_of(target: Any) -> str:
    """Return ``file:line`` of a class, function or method, or the empty text if its source is not available."""
    code = getattr(inspect.unwrap(target), "__code__", None)
    if code is not None:  # needs no file access: every operation records its place at activation
        return f"{code.co_filename}:{code.co_firstlineno}"
    try:
        return f"{inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"
    except (OSError, TypeError):
        return ""


def in_brackets(place: str) -> str:
    """Return ``place`` in brackets as the end of a sentence, or the empty text for an empty place."""
    return f" ({place})" if place else ""


def line_of(text: str, path: Sequence[str]) -> int | None:
    """Return the first line of a TOML text that sets the key ``path`` or opens its table, or None."""
    return lines_of(text).get(tuple(path))


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """Return the first line of each key and table of a TOML text.

    Accurate enough for a message: a line inside a multi-line string that looks like a key counts as one.
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _HEADER.fullmatch(line), _KEY.match(line)
        if header is not None:
            table = _words(header[1])
        if header is None and key is None:
            continue
        here = table if key is None else table + _words(key[1])
        for length in range(1, len(here) + 1):
            lines.setdefault(here[:length], number)
    return lines


def place_in_toml(file: str, lines: Mapping[tuple[str, ...], int], path: Sequence[str]) -> str:
    """Return ``file:line`` of the key ``path`` or else of the innermost table around it; without either ``file``.

    ``lines`` are those of :func:`lines_of`: a file with many mistakes is searched once.
    """
    for length in range(len(path), 0, -1):
        if (line := lines.get(tuple(path[:length]))) is not None:
            return f"{file}:{line}"
    return file


def _words(key: str) -> tuple[str, ...]:
    return tuple(word.strip("\"'") for word in re.findall(_WORD, key))
