"""Waits in the rate-limit headers of providers that send no ``Retry-After``."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime

from handler_host._internal.units import bound_seconds

_RESET = re.compile(r"(?:x-|anthropic-)?ratelimit-(?:(.+)-)?reset(?:-(.+))?")
"""Names such as ``x-ratelimit-reset-tokens``, ``anthropic-ratelimit-tokens-reset`` and ``ratelimit-reset``."""
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?|\.\d+)s)?(?:(\d+(?:\.\d+)?|\.\d+)ms)?")
"""OpenAI's and Groq's form: ``6m0s``, ``7.66s``, ``120ms``."""
_UNITS_S = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_FIRST_TIMESTAMP = 10**9
"""Numbers from here on are times since 1970: in seconds, or in milliseconds (OpenRouter)."""
_FIRST_TIMESTAMP_MS = 10**11


def seconds_until_reset(headers: Mapping[str, str]) -> float | None:
    """Return the seconds until a request may pass again, or None if no header has them.

    It is the longest time of the limits of which nothing remains; without such a one, the shortest of the limits
    that do not name what remains: a client that comes too early is refused once more. A limit with something left
    does not count: it may be another one that the request exceeds. The result is between 0 and one day.
    """
    exhausted: list[float] = []
    others: list[float] = []
    for name, value in headers.items():
        match = _RESET.fullmatch(name.lower())
        seconds = _parse_reset(value.strip()) if match is not None else None
        if seconds is not None:
            remaining = headers.get(name.lower().replace("reset", "remaining"), "").strip()
            if remaining in ("0", "0.0"):
                exhausted.append(seconds)
            elif not remaining:
                others.append(seconds)
    return max(exhausted) if exhausted else min(others, default=None)


def _parse_reset(value: str) -> float | None:
    """Return the seconds that a reset is away: a duration, a number, or a time."""
    try:
        if value[:1].isdigit() and (match := _DURATION.fullmatch(value)):
            parts = zip(match.groups(default="0"), _UNITS_S, strict=True)
            return bound_seconds(sum(float(part) * unit for part, unit in parts))
        if "T" in value:
            return bound_seconds(datetime.fromisoformat(value).timestamp() - time.time())
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if number < 0:
        return None
    if number >= _FIRST_TIMESTAMP_MS:
        number /= 1000
    return bound_seconds(number - time.time() if number >= _FIRST_TIMESTAMP else number)
