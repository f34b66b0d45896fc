"""Parse and format durations and sizes in the notation of the configuration.

``KB``, ``MB`` and ``GB`` are powers of 1024, as in the tools that show memory; ``KiB``, ``MiB`` and
``GiB`` mean the same.
"""

from __future__ import annotations

import math
import re

DURATION_FORMS = "30s, 5m, 1h30m or 250ms"
"""Examples of a valid duration, for messages."""
SIZE_FORMS = "512MB, 1.5GB or a whole number of bytes"
"""Examples of a valid size, for messages."""
SIZE_FIGURES = frozenset(
    {"pss", "uss", "rss", "peak", "host", "fork_server", "limit", "usable", "used", "reserved"}
    | {"given_back", "host_bytes", "worker_pss"}
)
"""Names of the figures in log and events that are bytes."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_NUMBER = r"\d+(?:\.\d+)?"
_STEP = re.compile(rf"({_NUMBER})\s*(ms|s|m|h|d)\s*", re.ASCII)
_DURATION = re.compile(rf"(?:{_STEP.pattern})+", re.ASCII)
MAX_DURATION = 100
"""Characters of the longest duration; clients send some, as ``keep_alive``."""
_SIZE = re.compile(rf"({_NUMBER})\s*(?:([kmgt])i?)?b?", re.ASCII | re.IGNORECASE)

MAX_SIZE = 2**63 - 1
"""The largest size in bytes: the range of the kernel's own counters."""
MAX_RETRY_AFTER_S = 86400.0
"""Longest wait, in seconds, that a client is asked for: a provider or a plugin may name any number."""


def parse_duration(value: object) -> float:
    """Parse ``"1h30m"``, ``"250ms"`` or a number of seconds; return seconds. Raises ``ValueError``."""
    try:
        seconds = _seconds(value)
    except OverflowError:
        seconds = math.inf
    if seconds is None:
        raise ValueError(f"{repr(value)[:MAX_DURATION]} is not a duration; write it as {DURATION_FORMS}")
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{value!r} is not a valid duration; use a finite number of 0 or more")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if len(text) > MAX_DURATION:
        return None
    if re.fullmatch(_NUMBER, text, re.ASCII):
        return float(text)
    if _DURATION.fullmatch(text) is None:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _STEP.findall(text))


def bound_seconds(seconds: float) -> float | None:
    """Return a wait between 0 and :data:`MAX_RETRY_AFTER_S` seconds, or None for NaN.

    >>> bound_seconds(10**400), bound_seconds(-1.0)
    (86400.0, 0.0)
    """
    if seconds != seconds:
        return None
    return float(max(0.0, min(seconds, MAX_RETRY_AFTER_S)))


def parse_size(value: object) -> int:
    """Parse ``"512MB"`` or a number of bytes; return bytes. Raises ``ValueError``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        size = value
    else:
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{value!r} is not a size; write it as {SIZE_FORMS}")
        number, unit = match[1], _BYTES[(match[2] or "").lower()]
        try:
            # A float would round whole numbers above 2**53.
            size = round(float(number) * unit) if "." in number else int(number) * unit
        except (OverflowError, ValueError):
            size = MAX_SIZE + 1
    if size > MAX_SIZE:
        raise ValueError(f"size is too large; the maximum is {MAX_SIZE} bytes")
    return size


def format_size(size: float) -> str:
    """Format a size in bytes for people: ``41.2 MB``."""
    for unit, factor in (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
        # A size that would round to 1024.0 of this unit is shown as 1.0 of the next one.
        if abs(size) >= factor * (1 - 0.05 / 1024):
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"


def format_duration(seconds: float) -> str:
    """Format a duration in seconds for people: ``250 ms``, ``4.2 s``, ``5m``, ``1h30m``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, remainder = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{number}{unit}" for number, unit in ((hours, "h"), (minutes, "m"), (remainder, "s")) if number)
