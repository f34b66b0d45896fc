"""Citations of a response: Anthropic has them on its blocks of text, a chat with their place in the whole text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler_host.chat import ChatChunk, Citation, CitationChunk


class CitationReader:
    """Reader of the citations of one block of text after the other.

    Each stands for the whole block, so its place is known at the end of the block.
    """

    def __init__(self) -> None:
        self._start = self._end = 0
        self._citations: list[Citation] = []

    def add_text(self, text: str) -> None:
        """Count the next part of the block's text."""
        self._end += len(text)

    def add(self, citation: Any) -> None:
        """Keep a citation until the end of the block."""
        if isinstance(citation, Mapping):
            source = _text(citation, "source") or ""
            self._citations.append(
                Citation(
                    url=_text(citation, "url") or (source if source.startswith(("http://", "https://")) else None),
                    title=_text(citation, "title") or _text(citation, "document_title"),
                    quote=_text(citation, "cited_text"),
                )
            )

    def stop(self) -> list[ChatChunk]:
        """Return the citations of the block that ends here."""
        chunks: list[ChatChunk] = []
        for citation in self._citations:
            if self._start < self._end:
                citation.start_index, citation.end_index = self._start, self._end
            chunks.append(CitationChunk(citation=citation))
        self._start, self._citations = self._end, []
        return chunks


def _text(source: Mapping[str, Any], name: str) -> str | None:
    value = source.get(name)
    return value if isinstance(value, str) and value else None
