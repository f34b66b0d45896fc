"""Body decoder: decodes the body of a protocol's route into a declared type; errors have the path to the field. Pure.

Fields that the type does not know are left out or refused, by the protocol's table
(:mod:`handler_host.protocols.fields`).
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from handler_host.http.body import invalid_json
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.fields import PROVIDER_TOOL, UNKNOWN, Field, IgnoredFields
from handler_host.protocols.pruning import Pruner, Skip

Body = TypeVar("Body", bound=msgspec.Struct)

_MISSING = "Object missing required field `"
_UNKNOWN = "Object contains unknown field `"


class BodyDecoder(Generic[Body]):
    """Decoder of the bodies of one route.

    Args:
        type: Type of the body; it forbids unknown fields.
        fields: Table of the fields that the type does not have, by their path with ``[]`` for an index.
        skips: Elements of lists that are left out, by the path of the elements; the type of these allows None.
        choices: Valid words of a field, by its path with ``[]`` for an index.
        rename: Returns a body with the names that the type has, for clients that write them in another form.
    """

    def __init__(
        self,
        type: type[Body],
        *,
        fields: Mapping[str, Field] | None = None,
        skips: Mapping[str, Skip] | None = None,
        choices: Mapping[str, str] | None = None,
        rename: Callable[[Any], Any] | None = None,
    ) -> None:
        self._type = type
        self._decoder = msgspec.json.Decoder(type)
        self._fields = fields or {}
        self._skips = skips
        self._choices = choices or {}
        self._rename = rename

    def decode(self, body: bytes, ignored: IgnoredFields | None = None) -> Body:
        """Decode ``body``, and note the fields that are left out in ``ignored``.

        Raises ``InvalidInput`` with the path to the field.
        """
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            return self._decode_leniently(body, error, ignored or IgnoredFields())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid_json(error) from None

    def _decode_leniently(self, body: bytes, strict_error: msgspec.ValidationError, ignored: IgnoredFields) -> Body:
        """Decode a body with unknown fields; ``strict_error`` is the error of the strict decoder."""
        try:
            content = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid_json(error) from None
        if not isinstance(content, dict):
            raise self._invalid(strict_error) from None
        if self._rename is not None:
            content = self._rename(content)
            with contextlib.suppress(msgspec.ValidationError):  # it has unknown or invalid fields as well
                return msgspec.convert(content, self._type)
        for pruned in self._pruner.prune(content):
            field = self._fields.get(pruned.name, UNKNOWN if pruned.known is not None else PROVIDER_TOOL)
            if field.asks(pruned.value):
                ignored.leave_out(field, pruned.name, pruned.place, pruned.known or ())
        try:
            return msgspec.convert(content, self._type)
        except msgspec.ValidationError as error:
            raise self._invalid(error) from None

    @functools.cached_property
    def _pruner(self) -> Pruner:
        return Pruner(self._type, self._skips)

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


def _inside(path: str, quoted: str) -> str:
    field = quoted.rstrip("`")
    return f"{path}.{field}" if path else field
