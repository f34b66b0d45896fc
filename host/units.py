"""Durations and sizes as people write them.

A size's ``KB``, ``MB`` and ``GB`` are powers of 1024, as in the tools that show
memory; ``KiB``, ``MiB`` and ``GiB`` mean the same.
"""

from __future__ import annotations

import math
import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)


def parse_duration(value: object) -> float:
    """Return seconds from ``"1h30m"``, ``"250ms"`` or a number of seconds; raises ``ValueError``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and value.strip():
        text = value.strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        elif re.fullmatch(f"(?:{_DURATION.pattern})+", text):
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))
        else:
            raise ValueError(f"{value!r} is no duration; write it as 30s, 5m, 1h30m or 250ms")
    else:
        raise ValueError(f"{value!r} is no duration; write it as 30s, 5m, 1h30m or 250ms")
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{value!r} is no duration: it has to be 0 or more, and finite")
    return seconds


def parse_size(value: object) -> int:
    """Return bytes from ``"512MB"`` or a number of bytes; raises ``ValueError``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{value!r} is no size; write it as 512MB, 1.5GB or a whole number of bytes")
    return int(float(found[1]) * _BYTES[found[2].lower()])


def format_size(size: float) -> str:
    """Return a size for people: ``41.2 MB``."""
    for unit, factor in (("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
        if abs(size) >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"


def format_duration(seconds: float) -> str:
    """Return a duration for people: ``250 ms``, ``4.2 s``, ``5m``, ``1h30m``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if number)
