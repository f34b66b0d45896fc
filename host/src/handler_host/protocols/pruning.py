"""Removal of fields that a declared type does not know, before a body is converted to it. Pure, linear in the body."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

Skip = Callable[[dict[str, Any]], str | None]
"""Returns the name under which an element of a list is left out, or None to keep it."""


class Pruned(NamedTuple):
    """A value that was removed from a body."""

    name: str
    """Path with ``[]`` for an index."""
    place: str
    """Path with indices."""
    value: Any
    known: Collection[str] | None
    """Fields that the type has at this place; None: an element that was chosen by a function."""


def _options_of(info: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.UnionType):
        for part in info.types:
            yield from _options_of(part)
    elif isinstance(info, inspect.Metadata):
        yield from _options_of(info.type)
    else:
        yield info


class _Plan:
    """The structs and the list that a declared type allows."""

    def __init__(self, info: inspect.Type) -> None:
        self.structs = [option for option in _options_of(info) if isinstance(option, inspect.StructType)]
        self.item = next(
            (option.item_type for option in _options_of(info) if isinstance(option, inspect.ListType)), None
        )

    def struct_of(self, value: dict[str, Any]) -> inspect.StructType | None:
        """Return the struct that an object is, or None if its fields are not declared."""
        for struct in self.structs:
            if struct.tag_field is None or (len(self.structs) == 1 and struct.tag_field not in value):
                return struct
            if value.get(struct.tag_field) == struct.tag:
                return struct
        return None


class Pruner:
    """Removes unknown fields from bodies of one type.

    ``skips`` has, for the path of a list's elements (``tools[]``), a function that chooses elements to replace with
    null, so that the indices of the others stay.
    """

    def __init__(self, type: Any, skips: Mapping[str, Skip] | None = None) -> None:
        self._info = inspect.type_info(type)
        self._skips = skips or {}
        self._plans: dict[int, _Plan] = {}
        """Plan of each type, by the identity of its description, which ``_info`` keeps alive."""
        self._fields: dict[type[msgspec.Struct], dict[str, inspect.Type]] = {}

    def prune(self, body: dict[str, Any]) -> Iterator[Pruned]:
        """Remove the unknown fields from ``body``, and yield each."""
        yield from self._prune(body, self._info, "", "")

    def _prune(self, value: dict[str, Any] | list[Any], info: inspect.Type, name: str, place: str) -> Iterator[Pruned]:
        plan = self._plans.get(id(info))
        if plan is None:
            plan = self._plans[id(info)] = _Plan(info)
        if isinstance(value, dict):
            struct = plan.struct_of(value)
            if struct is not None:
                yield from self._prune_struct(value, struct, name, place)
        elif plan.item is not None:
            yield from self._prune_list(value, plan.item, f"{name}[]", place)

    def _prune_struct(
        self, value: dict[str, Any], struct: inspect.StructType, name: str, place: str
    ) -> Iterator[Pruned]:
        fields = self._fields_of(struct)
        before, before_place = (f"{name}.", f"{place}.") if name else ("", "")
        for key in [key for key in value if key not in fields and key != struct.tag_field]:
            yield Pruned(before + key, before_place + key, value.pop(key), fields)
        for key, part in value.items():
            if isinstance(part, dict | list) and key in fields:
                yield from self._prune(part, fields[key], before + key, before_place + key)

    def _fields_of(self, struct: inspect.StructType) -> dict[str, inspect.Type]:
        fields = self._fields.get(struct.cls)
        if fields is None:
            fields = self._fields[struct.cls] = {
                field.encode_name: field.type
                for field in struct.fields
                if not isinstance(field.type, inspect.NoneType)  # clients send null, and no value has a place
            }
        return fields

    def _prune_list(self, value: list[Any], item: inspect.Type, name: str, place: str) -> Iterator[Pruned]:
        skip = self._skips.get(name)
        for index, part in enumerate(value):
            inside = f"{place}[{index}]"
            skipped = skip(part) if skip is not None and isinstance(part, dict) else None
            if skipped is not None:
                value[index] = None
                yield Pruned(f"{name}.{skipped}", inside, part, None)
            elif isinstance(part, dict | list):
                yield from self._prune(part, item, name, inside)
