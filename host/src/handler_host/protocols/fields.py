"""Fields of a protocol that a chat request has no place for, as one table per protocol; the docs have the same table.

A *hint* changes the quality or the cost of a response, a *demand* changes what the response is, and an *echo* is
bookkeeping that SDKs write into messages which they send back. By default hints are left out and named in the header
``X-Ignored-Fields``, and demands are refused. A field that is in no table belongs to a newer SDK and is a hint.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from handler_host.plugin.errors import InvalidInput

if TYPE_CHECKING:
    from handler_host.chat.types import Unsupported

Kind = Literal["hint", "demand", "echo"]


class Field(msgspec.Struct, frozen=True):
    """A field that the host cannot translate."""

    kind: Kind
    neutral: tuple[Any, ...] = ()
    """Values, apart from null and empty ones, that ask for nothing."""
    remedy: str | None = None
    counts_if_empty: bool = False
    """Whether an empty value asks for something, too."""
    error_code: str | None = None
    """The provider's code of the refusal, where its SDKs have a second way on that code."""

    def asks(self, value: Any) -> bool:
        """Return whether a value asks for something."""
        if value is None or self.kind == "echo" or value in self.neutral:
            return False
        return self.counts_if_empty or value not in ([], {}, "")


def hint(*neutral: Any, remedy: str | None = None) -> Field:
    """Return a field that changes the quality or the cost of a response."""
    return Field("hint", neutral, remedy)


def demand(*neutral: Any, remedy: str | None = None, error_code: str | None = None) -> Field:
    """Return a field that changes what the response is."""
    return Field("demand", neutral, remedy, error_code=error_code)


ECHO = Field("echo")
UNKNOWN = Field("hint", counts_if_empty=True)
"""A field of a newer SDK, or a mistake."""
PROVIDER_TOOL = Field("hint", counts_if_empty=True)
"""A tool that runs at the provider, or something that it made."""


class IgnoredFields:
    """The fields of one request that were left out, and the operator's or client's choice for such fields."""

    def __init__(self, mode: Unsupported = "ignore-hints") -> None:
        self.mode = mode
        self._names: dict[str, None] = {}

    @property
    def names(self) -> list[str]:
        """The names, in the order of their first appearance; an index is ``[]``."""
        return list(self._names)

    def leave_out(self, field: Field, name: str, place: str, known: Collection[str] = ()) -> None:
        """Note a field that is left out; ``place`` is its path in the request, ``known`` the names beside it.

        Raises ``InvalidInput`` for a field that must be refused.
        """
        if self.mode == "refuse" or (self.mode == "ignore-hints" and field.kind == "demand"):
            if field is UNKNOWN:
                raise InvalidInput(f"unknown field {place!r}{_suggestion(place, known)}", param=place)
            remedy = f": {field.remedy}" if field.remedy is not None else "; leave it out"
            details: dict[str, object] | None = {"error_code": field.error_code} if field.error_code else None
            raise InvalidInput(f"{place} is not supported{remedy}", param=place, details=details)
        self._names[name] = None

    def add(self, names: Collection[str]) -> None:
        """Note fields that a handler has left out."""
        self._names |= dict.fromkeys(names)


def _suggestion(place: str, known: Collection[str]) -> str:
    from handler_host._internal.suggestions import nearest  # needed only for mistakes

    parent, dot, name = place.rpartition(".")
    similar = nearest(name, known)
    return f"; did you mean {parent + dot + similar!r}?" if similar is not None else "; leave it out"
