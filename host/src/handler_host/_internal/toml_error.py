"""Explain why a text is not TOML, in the words of its author instead of the parser's."""

from __future__ import annotations

import re

TWICE = re.compile(r"Cannot declare \((.+?),?\) twice(.*)", re.DOTALL)


def explain_toml_error(error: ValueError | RecursionError) -> str:
    """Return what is wrong with a text that ``tomllib`` refuses, with its line where that is known."""
    text = str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if text.startswith("Exceeds the limit"):
        return "a number has too many digits"
    if twice := TWICE.match(text):
        name = twice[1].replace("'", "").replace(", ", ".")
        return f"the table [{name}] occurs twice{twice[2]}; put all its keys into one"
    return text.replace("Cannot overwrite a value", "the key has a value already; keep one of the two")
