"""The host's version, and version ranges that plugins may demand of it."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

__version__ = "0.1.0"

_RELEASE = re.compile(r"v?(\d+(?:\.\d+)*)")
_CLAUSE = re.compile(r"(~=|==|!=|<=|>=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

Clause = tuple[str, tuple[int, ...], bool]
"""Operator, release, and whether the release ends in ``.*``."""


def release(version: str) -> tuple[int, ...]:
    """Return the numbers at the start of a version without zeros at the end: ``1.2.0rc1`` is ``(1, 2)``.

    What has no number at its start is ``()``, and thus older than all that has.
    """
    match = _RELEASE.match(version)
    return _trimmed(match[1]) if match is not None else ()


def parse_range(text: str) -> list[Clause]:
    """Return the clauses of a range such as ``>=0.1,<1``.

    Operators are those of Python's version specifiers (``== != < <= > >= ~=``, ``==1.*``)
    with versions of numbers only. Raises ValueError, which says what is not understood.
    """
    clauses: list[Clause] = []
    for part in text.split(","):
        match = _CLAUSE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is no version range; write it like '>=0.1,<1'")
        symbol, number, wild = match[1], match[2], match[3] is not None
        if wild and symbol not in ("==", "!="):
            raise ValueError(f"{part.strip()!r}: '.*' goes with == and != only")
        if symbol == "~=":
            numbers = number.split(".")
            if len(numbers) < 2:
                raise ValueError(f"{part.strip()!r}: ~= needs two numbers at least, like '~=1.2'")
            clauses.append((">=", _trimmed(number), False))
            clauses.append(("==", tuple(map(int, numbers[:-1])), True))
        else:
            # Zeros count before `.*`: 1.0.* does not have 1.2 in it.
            clauses.append((symbol, tuple(map(int, number.split("."))) if wild else _trimmed(number), wild))
    return clauses


def satisfies(version: str, clauses: list[Clause]) -> bool:
    """Return whether a version is within a range; of a pre-release only its numbers count."""
    own = release(version)
    for symbol, wanted, wild in clauses:
        compared = (own + (0,) * len(wanted))[: len(wanted)] if wild else own
        if not _COMPARE[symbol](compared, wanted):
            return False
    return True


def _trimmed(number: str) -> tuple[int, ...]:
    numbers = [int(part) for part in number.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
