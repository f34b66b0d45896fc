"""The host's version, and the version ranges in which plugins require it."""

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
    """Return the leading numbers of a version without trailing zeros: ``1.2.0rc1`` is ``(1, 2)``.

    A version without a leading number is ``()``, which sorts before all others.
    """
    match = _RELEASE.match(version)
    return _trimmed(match[1]) if match is not None else ()


def parse_range(text: str) -> list[Clause]:
    """Return the clauses of a range such as ``>=0.1,<1``.

    Operators are those of Python's version specifiers (``== != < <= > >= ~=``, ``==1.*``), with
    numeric versions only. Raises ValueError with the clause that is invalid.
    """
    clauses: list[Clause] = []
    for part in text.split(","):
        match = _CLAUSE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is not a version range; write it like '>=0.1,<1'")
        symbol, number, wild = match[1], match[2], match[3] is not None
        if wild and symbol not in ("==", "!="):
            raise ValueError(f"{part.strip()!r}: '.*' is valid only after == and !=")
        if symbol == "~=":
            numbers = number.split(".")
            if len(numbers) < 2:
                raise ValueError(f"{part.strip()!r}: ~= needs at least two numbers; write it like '~=1.2'")
            clauses.append((">=", _trimmed(number), False))
            clauses.append(("==", tuple(map(int, numbers[:-1])), True))
        else:
            # Trailing zeros count before `.*`: 1.0.* does not include 1.2.
            clauses.append((symbol, tuple(map(int, number.split("."))) if wild else _trimmed(number), wild))
    return clauses


def satisfies(version: str, clauses: list[Clause]) -> bool:
    """Return whether a version is within a range; a pre-release counts by its numbers only."""
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
