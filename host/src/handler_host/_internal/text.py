"""Make text of plugins and providers fit for UTF-8. Pure."""

from __future__ import annotations

import re
from typing import Any

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: valid in a string of Python and in JSON, but not in UTF-8."""


def repair_text(text: str) -> str:
    r"""Return the text with the halves of a surrogate pair joined, and U+FFFD for a half that stands alone.

    >>> repair_text("a\ud83d\ude00b\ud83d")
    'a\U0001f600b\ufffd'
    """
    if text.isascii() or SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def repair_texts(value: Any) -> Any:
    """Return a value of lists, dictionaries and strings with :func:`repair_text` applied to each string."""
    if isinstance(value, str):
        return repair_text(value)
    if isinstance(value, list | tuple):
        return [repair_texts(item) for item in value]
    if isinstance(value, dict):
        return {repair_texts(key): repair_texts(item) for key, item in value.items()}
    return value
