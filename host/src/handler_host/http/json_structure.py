"""Limits on the structure of JSON bodies, checked before anything decodes them. Pure.

A body of 1 MB can be nested 500,000 levels deep, or have 500,000 values. Decoders, translations and the handlers' SDKs
recurse over the first and take seconds for the second, so both have a limit at the door, for all routes.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import accumulate

from handler_host.plugin.errors import BodyTooLarge, InvalidInput

MAX_DEPTH = 128
"""Most arrays and objects inside of each other; Python's own limit is 1,000 levels, pydantic's 255."""
MAX_VALUES = 200_000
"""Most values in a body that the host decodes; a chat of a million tokens has a quarter of it."""
PART_BYTES = 64 * 1024
"""Bytes to check at a time (below 1 ms; 3 ms for brackets alone)."""
COUNT_BYTES = 1024 * 1024
"""Bytes whose brackets to count at a time (1 ms)."""

_DROPPED = bytes(byte for byte in range(256) if byte not in b'"[]{},')
_STEPS = [0] * 256
for _opening, _closing in ("[]", "{}"):
    _STEPS[ord(_opening)], _STEPS[ord(_closing)] = 1, -1


class StructureScanner:
    """Reads a JSON document in pieces and checks its depth and number of values.

    The cost is linear: about 3 ns for a byte of text, 60 ns for a bracket or comma. What is not JSON is not found here.
    """

    def __init__(self, *, max_values: int | None = None) -> None:
        self._max_values = max_values
        self._depth = 0
        self._values = 0
        self._in_string = False
        self._after_backslash = False

    def feed(self, data: bytes) -> None:
        """Read the next bytes; raises ``InvalidInput`` or ``BodyTooLarge`` at a limit."""
        if self._after_backslash:
            data = data[1:]
            self._after_backslash = False
        if b"\\" in data:  # only inside of strings; pairs first, so that what is left escapes what follows
            data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
            self._after_backslash = data.endswith(b"\\")
        parts = data.translate(None, _DROPPED).split(b'"')
        structure = b"".join(parts[1::2] if self._in_string else parts[::2])
        self._in_string ^= len(parts) % 2 == 0
        if structure:
            self._check(structure)

    def _check(self, structure: bytes) -> None:
        """Check brackets and commas outside of strings."""
        opened = structure.count(b"[") + structure.count(b"{")
        self._values += structure.count(b",") + opened
        if self._max_values is not None and self._values > self._max_values:
            raise BodyTooLarge(f"the body has more than {self._max_values} values; send less in one request")
        if self._depth + opened > MAX_DEPTH:
            brackets = structure.replace(b",", b"")
            if max(accumulate(map(_STEPS.__getitem__, brackets), initial=self._depth)) > MAX_DEPTH:
                raise InvalidInput(f"the body is nested too deeply; JSON may have {MAX_DEPTH} levels here")
        self._depth += 2 * opened - (len(structure) - structure.count(b","))


def check_structure(body: bytes, *, max_values: int | None = None) -> None:
    """Check a whole document as :class:`StructureScanner` does; a small one costs two searches."""
    for _ in check_in_steps(body, max_values=max_values):
        pass


def check_in_steps(body: bytes, *, max_values: int | None = None) -> Generator[None]:
    """Check a document as :func:`check_structure` does, one part at each step."""
    may_exceed = max_values is not None and len(body) > 2 * max_values
    opened = 0
    for start in range(0, 0 if may_exceed else len(body), COUNT_BYTES):
        if start:
            yield
        opened += body.count(b"[", start, start + COUNT_BYTES) + body.count(b"{", start, start + COUNT_BYTES)
    if may_exceed or opened > MAX_DEPTH:
        scanner = StructureScanner(max_values=max_values)
        for start in range(0, len(body), PART_BYTES):
            scanner.feed(body[start : start + PART_BYTES])
            yield
