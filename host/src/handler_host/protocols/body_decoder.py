"""Body decoder: decodes the body of a protocol's route into a declared type; errors have the path to the field. Pure.

Fields that ask for an unsupported feature are refused by name, not ignored: a client that sets ``n`` or ``logprobs``
relies on them.
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
    """Decoder of the bodies of one route.

    Args:
        type: Type of the body; it forbids unknown fields.
        ignored: Fields that are accepted without effect, because they do not change a response.
        neutral: Unsupported fields, with the values (beside null) that do not ask for the feature.
        remedies: Remedies for such fields.
        choices: Valid words of a field, by its path without indices.
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
        """Decode ``body``; raises ``InvalidInput`` with the path to the field."""
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            return self._decode_leniently(body, error)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid_json(error) from None

    def _decode_leniently(self, body: bytes, strict_error: msgspec.ValidationError) -> Body:
        """Decode a body with unknown fields; ``strict_error`` is the error of the strict decoder."""
        try:
            fields = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid_json(error) from None
        if not isinstance(fields, dict):
            raise self._invalid(strict_error) from None
        known = {field.encode_name for field in msgspec.structs.fields(self._type)}
        for name in [name for name in fields if name not in known]:
            self._refuse(name, fields.pop(name), known)
        try:
            return msgspec.convert(fields, self._type)
        except msgspec.ValidationError as error:
            raise self._invalid(error) from None

    def _refuse(self, name: str, value: object, known: Collection[str]) -> None:
        """Raise ``InvalidInput`` for an unknown field, unless it has no effect."""
        if name in self._ignored:
            return
        if name not in self._neutral:
            raise InvalidInput(f"unknown field {name!r}{_suggestion(name, known)}", param=name)
        if value is None or value in self._neutral[name]:
            return
        remedy = f": {self._remedies[name]}" if name in self._remedies else "; leave it out"
        raise InvalidInput(f"{name} is not supported{remedy}", param=name)

    def _invalid(self, error: msgspec.ValidationError) -> InvalidInput:
        """Return msgspec's error with the path as clients write it: ``messages[0].role``."""
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
            text += f"; it must be {choices}"
        return InvalidInput(f"{path or 'the body'}: {text}", param=path or None)


def _suggestion(name: str, known: Collection[str]) -> str:
    from handler_host._internal.suggestions import nearest  # needed only for mistakes

    similar = nearest(name, known)
    return f"; did you mean {similar!r}?" if similar is not None else "; leave it out"


def _inside(path: str, quoted: str) -> str:
    field = quoted.rstrip("`")
    return f"{path}.{field}" if path else field
