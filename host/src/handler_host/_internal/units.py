"""Durations and sizes as people write them.

A size's ``KB``, ``MB`` and ``GB`` are powers of 1024, as in the tools that show
memory; ``KiB``, ``MiB`` and ``GiB`` mean the same.
"""

from __future__ import annotations

import math
import re

DURATION_FORMS = "30s, 5m, 1h30m or 250ms"
"""How a duration may be written: for messages."""
SIZE_FORMS = "512MB, 1.5GB or a whole number of bytes"
"""How a size may be written: for messages."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_NUMBER = r"\d+(?:\.\d+)?"
_STEP = re.compile(rf"({_NUMBER})\s*(ms|s|m|h|d)\s*", re.ASCII)
_DURATION = re.compile(rf"(?:{_STEP.pattern})+", re.ASCII)
_SIZE = re.compile(rf"({_NUMBER})\s*(?:([kmgt])i?)?b?", re.ASCII | re.IGNORECASE)


MAX_SIZE = 2**63 - 1
"""Bytes; what the kernel's own counters can hold."""


def parse_duration(value: object) -> float:
    """Return seconds from ``"1h30m"``, ``"250ms"`` or a number of seconds; raises ``ValueError``."""
    try:
        seconds = _seconds(value)
    except OverflowError:
        seconds = math.inf
    if seconds is None:
        raise ValueError(f"{value!r} is no duration; write it as {DURATION_FORMS}")
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{value!r} is no duration: it has to be 0 or more, and finite")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if re.fullmatch(_NUMBER, text, re.ASCII):
        return float(text)
    if _DURATION.fullmatch(text) is None:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _STEP.findall(text))


def parse_size(value: object) -> int:
    """Return bytes from ``"512MB"`` or a number of bytes; raises ``ValueError``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        size = value
    else:
        found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"{value!r} is no size; write it as {SIZE_FORMS}")
        number, unit = found[1], _BYTES[(found[2] or "").lower()]
        try:
            # Whole numbers keep all their digits.
            size = round(float(number) * unit) if "." in number else int(number) * unit
        except (OverflowError, ValueError):
            size = MAX_SIZE + 1
    if size > MAX_SIZE:
        raise ValueError("a size of so many digits is none")
    return size


def format_size(size: float) -> str:
    """Return a size for people: ``41.2 MB``."""
    for unit, factor in (("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
        # What rounds to 1024.0 of one unit is 1.0 of the next.
        if abs(size) >= factor * (1 - 0.05 / 1024):
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"


def format_duration(seconds: float) -> str:
    """Return a duration for people: ``250 ms``, ``4.2 s``, ``5m``, ``1h30m``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if number)
