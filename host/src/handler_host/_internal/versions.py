"""The host's version, the version ranges in which plugins require it, and the order of versions."""

from __future__ import annotations

import math
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

_VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<pre>alpha|beta|preview|pre|rc|a|b|c)[-_.]?(?P<pre_number>\d*))?"
    r"(?P<post>-(?P<implicit_post>\d+)|[-_.]?(?:post|rev|r)[-_.]?(?P<post_number>\d*))?"
    r"(?P<dev>[-_.]?dev[-_.]?(?P<dev_number>\d*))?"
    r"(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?",
    re.ASCII | re.IGNORECASE,
)
"""A version as PEP 440 defines it, with the spellings that it allows."""
_PRE_RELEASES = {"a": 1, "alpha": 1, "b": 2, "beta": 2, "c": 3, "rc": 3, "pre": 3, "preview": 3}
_ONLY_DEV, _NO_PRE_RELEASE = 0, 4
_MAX_LENGTH = 255
"""Characters of a version; Python's int() refuses numbers of some thousand digits."""

VersionKey = tuple[int, tuple[int, ...], tuple[int, int], int, float, tuple[tuple[int, int, str], ...]]
"""Epoch (-1 for an invalid version), release, pre-release, post-release, development release, local version."""

Clause = tuple[str, tuple[int, ...], bool]
"""Operator, release, and whether the release ends in ``.*``."""


def release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version without trailing zeros: ``1.2.0rc1`` is ``(1, 2)``.

    A version without a leading number is ``()``, which sorts before all others.
    """
    match = _RELEASE.match(version)
    return _trimmed(match[1]) if match is not None else ()


def version_key(version: str) -> VersionKey:
    """Return the sort key of a version by PEP 440; an invalid version sorts before all others."""
    match = _VERSION.fullmatch(version.strip()) if len(version) <= _MAX_LENGTH else None
    if match is None:
        return -1, (), (0, 0), 0, 0.0, ()
    if match["pre"] is not None:
        pre = (_PRE_RELEASES[match["pre"].lower()], int(match["pre_number"] or 0))
    else:
        pre = (_ONLY_DEV if match["dev"] is not None and match["post"] is None else _NO_PRE_RELEASE, 0)
    post = int(match["implicit_post"] or match["post_number"] or 0) if match["post"] is not None else -1
    dev = float(match["dev_number"] or 0) if match["dev"] is not None else math.inf
    parts = re.split(r"[-_.]", match["local"].lower()) if match["local"] is not None else []
    local = tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)
    return int(match["epoch"] or 0), _trimmed(match["release"]), pre, post, dev, local


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
