"""Places of fields in a JSON document, without a parse of their values: a long document costs one scan. Pure."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

import msgspec

MAX_FIELDS = 2000
"""Fields of one object that are looked through; requests of clients have some dozens."""

# Possessive: otherwise the name of a field takes 130 times its size, for a way back that is never tried.
_FIELD = re.compile(rb'[\s,{]*("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*:\s*')
_END = re.compile(rb"\s*(?:\{\s*)?\}\s*")
_BEFORE_ITEM = re.compile(rb"\s*[\[,]\s*")
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Value(NamedTuple):
    """Value of a field: bytes ``start`` to ``end`` of the document."""

    start: int
    end: int


def fields_of(document: bytes | memoryview, start: int = 0, end: int | None = None) -> dict[str, Value]:
    """Return the place of each field of the object between ``start`` and ``end``; an empty dict if it is not an object.

    Nested values are not looked into. Raises ``ValueError`` for a document with a duplicate field, or with more than
    :data:`MAX_FIELDS`; ``msgspec.DecodeError`` and ``RecursionError`` as msgspec does.
    """
    view = memoryview(document)[start : len(document) if end is None else end]
    try:
        raw = _decode(view)
    except msgspec.ValidationError:
        return {}
    if len(raw) > MAX_FIELDS:
        raise ValueError(f"the object has more than {MAX_FIELDS} fields")
    places: dict[str, Value] = {}
    position = 0
    for name, value in raw.items():
        match = _FIELD.match(view, position)
        # Nearly all names are written without an escape.
        if match is None or (match[1][1:-1] != name.encode() and json.loads(match[1]) != name):
            raise ValueError("the object has a duplicate field")
        position = match.end() + len(memoryview(value))
        places[name] = Value(start + match.end(), start + position)
    if _END.fullmatch(view, position) is None:
        raise ValueError("the object has a duplicate field")
    return places


def items_of(document: bytes | memoryview, start: int, end: int) -> list[Value]:
    """Return the place of each item of the array between ``start`` and ``end``; an empty list if it is not an array."""
    view = memoryview(document)[start:end]
    try:
        raw = _decode_items(view)
    except msgspec.ValidationError:
        return []
    places: list[Value] = []
    position = 0
    for value in raw:
        match = _BEFORE_ITEM.match(view, position)
        first = position if match is None else match.end()
        position = first + len(memoryview(value))
        places.append(Value(start + first, start + position))
    return places


def text_of(document: bytes | memoryview, value: Value | None) -> str | None:
    """Return the text of a field that is a JSON string, else None."""
    if value is None or value.end - value.start < 2:
        return None
    try:
        return msgspec.json.decode(memoryview(document)[value.start : value.end], type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
