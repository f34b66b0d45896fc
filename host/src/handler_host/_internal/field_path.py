"""Path to a field of a request, built only when an error names it."""

from __future__ import annotations

from typing import NamedTuple

MAX_STEP_LENGTH = 100
MAX_PATH_LENGTH = 1000


class FieldPath(NamedTuple):
    """Path to a field, linked to the path of the field around it.

    A tree of n fields under a name of m characters costs n links, not n copies of m characters: a schema of 200 kB
    would else take gigabytes.
    """

    parent: FieldPath | None
    step: str | int
    """Name of the field, or its position in a list."""

    def __str__(self) -> str:
        """Return the path as clients write it, ``messages[0].role``; very long names and paths are shortened."""
        steps: list[str] = []
        path: FieldPath | None = self
        while path is not None:
            step = path.step
            steps.append(f"[{step}]" if isinstance(step, int) else f".{shorten(step)}")
            path = path.parent
        return shorten("".join(reversed(steps)).removeprefix("."), MAX_PATH_LENGTH)


def shorten(text: str, limit: int = MAX_STEP_LENGTH) -> str:
    """Return ``text``, with its middle left out if it has more than ``limit`` characters."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}…{text[-(limit // 2) :]}"
