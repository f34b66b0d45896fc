"""The bodies of compatible routes: decoded into a declared type, with the path to what is wrong. Pure.

What is asked for and cannot be given is refused by name, not ignored: a client
that sets ``n`` or ``logprobs`` relies on them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from handler_host.http.body import invalid_json
from handler_host.plugin.errors import InvalidInput

Body = TypeVar("Body", bound=msgspec.Struct)

_MISSING = "Object missing required field `"
_UNKNOWN = "Object contains unknown field `"


class BodyDecoder(Generic[Body]):
    """Decodes the body of one route.

    Args:
        type: What the body has to be; it forbids unknown fields.
        ignored: Fields that are taken and have no effect, as they change nothing of an answer.
        neutral: Fields that are not supported, with the values (beside null) that ask for nothing.
        remedies: What to do instead of using such a field.
        choices: What is possible where one of a few words has to stand, by the path without indices.
    """

    def __init__(
        self,
        type: type[Body],
        *,
        ignored: Collection[str] = (),
        neutral: Mapping[str, tuple[Any, ...]] | None = None,
        remedies: Mapping[str, str] | None = None,
        choices: Mapping[str, str] | None = None,
    ) -> None:
        self._type = type
        self._decoder = msgspec.json.Decoder(type)
        self._ignored = ignored
        self._neutral = neutral or {}
        self._remedies = remedies or {}
        self._choices = choices or {}

    def decode(self, body: bytes) -> Body:
        """Return what is in ``body``; raises ``InvalidInput`` with the path to what is wrong."""
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            return self._decode_leniently(body, error)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid_json(error) from None

    def _decode_leniently(self, body: bytes, first: msgspec.ValidationError) -> Body:
        """Decode what has fields that the strict way does not know; ``first`` is what it said."""
        try:
            fields = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid_json(error) from None
        if not isinstance(fields, dict):
            raise self._invalid(first) from None
        known = {field.encode_name for field in msgspec.structs.fields(self._type)}
        for name in [name for name in fields if name not in known]:
            self._refuse(name, fields.pop(name), known)
        try:
            return msgspec.convert(fields, self._type)
        except msgspec.ValidationError as error:
            raise self._invalid(error) from None

    def _refuse(self, name: str, value: object, known: Collection[str]) -> None:
        """Raise ``InvalidInput`` for an unknown field that asks for something."""
        if name in self._ignored:
            return
        if name not in self._neutral:
            raise InvalidInput(f"unknown field {name!r}{_meant(name, known)}", param=name)
        if value is None or value in self._neutral[name]:
            return
        remedy = f": {self._remedies[name]}" if name in self._remedies else "; leave it out"
        raise InvalidInput(f"{name} is not supported{remedy}", param=name)

    def _invalid(self, error: msgspec.ValidationError) -> InvalidInput:
        """Return msgspec's word on a wrong value, with the path as clients write it: ``messages[0].role``."""
        text, _, place = str(error).partition(" - at `")
        path = place.rstrip("`").removeprefix("$").lstrip(".")
        if text.startswith(_MISSING):
            path = _inside(path, text.removeprefix(_MISSING))
            return InvalidInput(f"{path} is missing", param=path)
        if text.startswith(_UNKNOWN):
            path = _inside(path, text.removeprefix(_UNKNOWN))
            return InvalidInput(f"{path} is not known or not supported; leave it out", param=path)
        text = text[:1].lower() + text[1:].replace("`", "'")
        choices = self._choices.get(re.sub(r"\[\d+\]", "[]", path))
        if text.startswith("invalid ") and choices is not None:
            text += f"; it has to be {choices}"
        return InvalidInput(f"{path or 'the body'}: {text}", param=path or None)


def _meant(name: str, known: Collection[str]) -> str:
    from handler_host._internal.suggestions import nearest  # needed only where somebody has made a mistake

    found = nearest(name, known)
    return f"; did you mean {found!r}?" if found is not None else "; leave it out"


def _inside(path: str, quoted: str) -> str:
    field = quoted.rstrip("`")
    return f"{path}.{field}" if path else field
