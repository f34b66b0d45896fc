"""Reasoning that its provider needs back, in the field ``reasoning_details`` that OpenRouter has made common. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from handler_host.chat import types as chat

FORMATS = {"anthropic": "anthropic-claude-v1", "gemini": "google-gemini-v1", "openai": "openai-responses-v1"}
"""The field's name of each format of a :class:`~handler_host.chat.types.ReasoningPart`."""
_FORMATS = {name: known for known, name in FORMATS.items()}


class ReasoningDetail(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A text with its signature, a summary, or encrypted data; details of one part have the same ``index``."""

    type: str
    text: str | None = None
    signature: str | None = None
    summary: str | None = None
    data: str | None = None
    format: str | None = None
    index: int


class DetailEncoder:
    """Makes the details of a response, one part after the other, from the chunks or parts of its reasoning."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._parts = 0

    def details(self, reasoning: chat.ReasoningChunk | chat.ReasoningPart) -> list[ReasoningDetail]:
        """Return the details that end a part; none before its end, or if its provider does not need it back."""
        self._texts.append(reasoning.text)
        if reasoning.signature is None and reasoning.encrypted is None:
            return []
        text = "".join(self._texts)
        name = FORMATS.get(reasoning.format or "", reasoning.format)
        index, self._parts, self._texts = self._parts, self._parts + 1, []
        if reasoning.encrypted is None:
            return [
                ReasoningDetail(
                    type="reasoning.text", text=text, signature=reasoning.signature, format=name, index=index
                )
            ]
        encrypted = ReasoningDetail(type="reasoning.encrypted", data=reasoning.encrypted, format=name, index=index)
        summary = ReasoningDetail(type="reasoning.summary", summary=text, format=name, index=index)
        return [summary, encrypted] if text else [encrypted]


def reasoning_parts(details: Iterable[Mapping[str, Any]]) -> Iterator[chat.ReasoningPart]:
    """Yield the parts of the details that a client sends back; details of unknown types are left out."""
    summaries: list[str] = []
    for detail in details:
        text, signature, data, name = (_string(detail, key) for key in ("text", "signature", "data", "format"))
        source = _FORMATS.get(name or "", name)
        match detail.get("type"):
            case "reasoning.text":
                yield chat.ReasoningPart(text=text or "", signature=signature, format=source)
            case "reasoning.summary":
                summaries.append(_string(detail, "summary") or "")
            case "reasoning.encrypted":
                yield chat.ReasoningPart(text="".join(summaries), encrypted=data, format=source)
                summaries.clear()
    if any(summaries):
        yield chat.ReasoningPart(text="".join(summaries))


def _string(detail: Mapping[str, Any], key: str) -> str | None:
    value = detail.get(key)
    return value if isinstance(value, str) else None
