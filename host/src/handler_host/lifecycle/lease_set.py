"""An immutable set of dispatch numbers that grows and shrinks in constant time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set


class LeaseSet(Set[int]):
    """The dispatches in flight on one worker.

    All versions that follow from one another share one hash table, which the newest one
    owns. An older version keeps the one difference from its successor, and builds a
    table of its own if it is used again. So a state machine that always continues from its
    newest state pays the same for each lease, however many are in flight, while each
    version keeps its value for ever.
    """

    __slots__ = ("_members", "_number", "_successor", "size")

    def __init__(self, members: Iterable[int] = ()) -> None:
        table = set(members)
        self.size = len(table)
        """As ``len()``, for code that every dispatch runs."""
        self._members: set[int] | None = table
        self._number = 0
        self._successor: LeaseSet | None = None

    def including(self, number: int) -> LeaseSet:
        """Return a set with ``number`` in it."""
        members = self._members if self._members is not None else self._rebuild()
        if number in members:
            return self
        if not members:
            # A table of its own: the empty set is shared by all handlers.
            return LeaseSet((number,))
        members.add(number)
        return self._succeed(members, number)

    def without(self, number: int) -> LeaseSet:
        """Return a set without ``number``."""
        members = self._members if self._members is not None else self._rebuild()
        if number not in members:
            return self
        if len(members) == 1:
            return NO_LEASES
        members.remove(number)
        return self._succeed(members, number)

    def __contains__(self, number: object) -> bool:
        return number in (self._members if self._members is not None else self._rebuild())

    def __iter__(self) -> Iterator[int]:
        return iter(self._members if self._members is not None else self._rebuild())

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"LeaseSet({sorted(self)})"

    def _succeed(self, members: set[int], number: int) -> LeaseSet:
        """Hand the table, which has just got or lost ``number``, over to a new version."""
        successor = LeaseSet.__new__(LeaseSet)
        successor.size = len(members)
        successor._members = members
        successor._number = 0
        successor._successor = None
        self._members, self._number, self._successor = None, number, successor
        return successor

    def _rebuild(self) -> set[int]:
        """Build a table from that of the newest version: each number that changed on the way changes back."""
        members: set[int] = set()
        version: LeaseSet | None = self
        while version is not None:
            if version._members is not None:
                members ^= version._members
            else:
                members ^= {version._number}
            version = version._successor
        self._members, self._successor = members, None
        return members


NO_LEASES = LeaseSet()
