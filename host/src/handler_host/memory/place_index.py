"""Places in the order of their amounts, so that a search costs the same with ten places and with a thousand. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping

MEMORY = ""
"""Name of the memory among the amounts; the others have the names of their resources."""


class PlaceIndex:
    """Places by their amounts of memory and of each resource."""

    def __init__(self) -> None:
        self._amounts: dict[str, Mapping[str, float]] = {}
        self._orders: dict[str, list[tuple[float, str]]] = {}
        """Amount and place, the smallest amount first, by the name of what is counted."""

    def set(self, place: str, amounts: Mapping[str, float]) -> None:
        """Set the amounts of a place; costs little if they are the same as before."""
        if self._amounts.get(place) == amounts:
            return
        self.discard(place)
        self._amounts[place] = amounts
        for name, amount in amounts.items():
            insort(self._orders.setdefault(name, []), (amount, place))

    def discard(self, place: str) -> None:
        """Remove a place, if it is there."""
        for name, amount in self._amounts.pop(place, {}).items():
            order = self._orders[name]
            del order[bisect_left(order, (amount, place))]

    def search(self, needs: Mapping[str, float], *, largest_first: bool = False, turn: int = 0) -> Iterator[str]:
        """Yield the places that have what is needed, in the order of what the fewest places have enough of.

        The order starts at another place with each ``turn``. The index must not change meanwhile.
        """
        order: list[tuple[float, str]] = []
        first = 0
        for number, (name, amount) in enumerate(needs.items()):
            candidates = self._orders.get(name, [])
            start = bisect_left(candidates, (amount, ""))
            if not number or len(candidates) - start < len(order) - first:
                order, first = candidates, start
        count = len(order) - first
        for step in range(count):
            offset = (step + turn) % count
            place = order[-1 - offset if largest_first else first + offset][1]
            amounts = self._amounts[place]
            if all(amounts.get(name, 0.0) >= amount for name, amount in needs.items()):
                yield place
