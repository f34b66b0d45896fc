"""What the sections of the configuration are made of: their base, and how numbers are written and bounded."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec

MB = 1024**2


class Number(NamedTuple):
    """The notation and the range of a numeric key."""

    written: Literal["count", "amount", "size", "duration", "share", "percentage"]
    """``count``: a whole number; ``amount``: any; ``share``: a percentage, kept as a float, or a size, as an int."""
    least: float = 0
    most: float = 2**50
    none: str | None = None
    """The word for None."""


Count = Annotated[int, Number("count", most=2**31 - 1)]
AtLeastOne = Annotated[int, Number("count", least=1, most=2**31 - 1)]
Size = Annotated[int, Number("size")]
Duration = Annotated[float, Number("duration")]
Timeout = Annotated[float, Number("duration", least=0.001)]
"""A duration of at least 1 ms: with 0 every request would time out, or a loop would never sleep."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections."""
