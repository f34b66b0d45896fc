"""Helpers that the stand-in's protocols share."""

from __future__ import annotations

import json
from typing import Any


def split(text: str) -> list[str]:
    """Return a text in parts of a word each, as a model streams it."""
    words = text.split(" ")
    return [*(f"{word} " for word in words[:-1]), words[-1]] if text else []


def event(data: dict[str, Any], kind: str | None = None) -> bytes:
    """Return a server-sent event."""
    head = f"event: {kind}\n" if kind else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def texts(content: Any) -> list[str]:
    """Return the texts of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return [content]
    return [str(part["text"]) for part in content or () if isinstance(part, dict) and part.get("text")]
