"""State for each choice of a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

State = TypeVar("State")


class ByChoice(dict[int, State]):
    """States by the number of their choice; that of the first choice is there from the start.

    ``make`` returns the state of the choice with this number, when its first chunk comes.
    """

    def __init__(self, make: Callable[[int], State]) -> None:
        super().__init__({0: make(0)})
        self._make = make

    def __missing__(self, number: int) -> State:
        state = self[number] = self._make(number)
        return state
