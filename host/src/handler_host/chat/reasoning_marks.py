"""Reasoning of servers that speak OpenAI's chat completions, and that need it back in the next turn. Pure.

OpenAI's own chat completions show no reasoning. DeepSeek and Moonshot refuse a turn after tool calls without it, and
OpenRouter passes signatures on to the models behind it. A mark at the end of the reasoning says where the server had
it; clients of all protocols send a mark back, as they send back signatures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from handler_host.chat.types import ReasoningChunk, ReasoningPart

DETAILS = "reasoning_details"
TEXT_FIELDS = ("reasoning_content", "reasoning")
_DETAIL_TEXTS = ("text", "summary")


class ReasoningMarker:
    """Maker of the marks of one response; ``source`` is the format of its marks, None: it makes none."""

    def __init__(self, source: str | None) -> None:
        self._source = source
        self._field: str | None = None
        self._details: list[tuple[dict[str, Any], list[str]]] = []
        """Details of the open reasoning, with the strings of their texts: joined once, as appending is quadratic."""
        self._has_details = False

    def read(self, message: Mapping[str, Any], *, is_whole: bool) -> None:
        """Note where a part of a message has its reasoning."""
        if self._source is None:
            return
        self._field = next((name for name in TEXT_FIELDS if message.get(name)), self._field)
        details = message.get(DETAILS)
        if not isinstance(details, list) or (is_whole and self._has_details):
            return  # some servers repeat them at the end
        for detail in details:
            if isinstance(detail, Mapping):
                self._has_details = True
                self._add(detail)

    def close(self) -> list[ReasoningChunk]:
        """Return the mark of the reasoning that ends here, if there is any."""
        details = [_joined(detail, texts) for detail, texts in self._details]
        place = details or self._field
        self._details, self._field = [], None
        if not place:
            return []
        return [ReasoningChunk(signature=msgspec.json.encode(place).decode(), format=self._source)]

    def _add(self, detail: Mapping[str, Any]) -> None:
        own = {name: value for name, value in detail.items() if value is not None and name not in _DETAIL_TEXTS}
        last = self._details[-1][0] if self._details else {}
        if not last or any(last.get(name) != own.get(name) for name in ("type", "index")):
            self._details.append((last := {}, []))
        last |= own
        self._details[-1][1].append(detail_text(detail))


def detail_text(detail: Mapping[str, Any]) -> str:
    """Return the text of a detail, or an empty string."""
    return next((text for name in _DETAIL_TEXTS if isinstance(text := detail.get(name), str)), "")


def _joined(detail: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    text = "".join(texts)
    return {**detail, "summary" if detail.get("type") == "reasoning.summary" else "text": text} if text else detail


def is_from(part: ReasoningPart, source: str | None) -> bool:
    """Return whether a reasoning has a mark of this source."""
    return source is not None and part.format == source and part.signature is not None


def reasoning_fields(parts: Iterable[ReasoningPart], source: str | None) -> dict[str, Any]:
    """Return the fields of a message in which its server had the reasoning; that of other sources is left out."""
    details: list[Any] = []
    texts: dict[str, list[str]] = {}
    for part in parts:
        place = _place(part.signature) if is_from(part, source) else None
        if isinstance(place, list):
            details += place
        elif place in TEXT_FIELDS:
            texts.setdefault(place, []).append(part.text)
    fields: dict[str, Any] = {name: "".join(strings) for name, strings in texts.items()}
    return fields | {DETAILS: details} if details else fields


def _place(mark: str | None) -> Any:
    try:
        return msgspec.json.decode(mark or "")
    except msgspec.DecodeError:
        return None  # a client has changed it
