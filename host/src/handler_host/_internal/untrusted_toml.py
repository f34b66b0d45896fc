"""Parse TOML from untrusted plugins at a bounded cost."""

from __future__ import annotations

from typing import Any

MAX_COST = 4_000_000
"""Most parts of dotted keys that the parser may visit: about half a second, and 40 MB."""


def parse_untrusted_toml(text: str) -> dict[str, Any]:
    """Return the document; raises ``ValueError`` and ``RecursionError``.

    The parser visits, and partly keeps, all parts of a dotted key or table name for each of these parts and for each
    key of that table: a name of 50,000 parts takes 100 s and 10 GB.
    """
    import tomllib  # a host without manifests does not need it

    lines = text.splitlines()
    most_parts = max((line.count(".") for line in lines), default=0)
    if most_parts * (text.count(".") + len(lines)) > MAX_COST:
        raise ValueError("a line has too many dots: the name of a key or table needs a few parts")
    return tomllib.loads(text)
