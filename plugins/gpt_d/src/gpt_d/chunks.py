"""LiteLLM's streams as chunks of a chat, and whether a stream is whole."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from handler_host.chat import ChatChunk, CompletionDecoder, finish_reason_of

GEMINI = frozenset({"gemini", "vertex_ai", "vertex_ai_beta"})
"""LiteLLM's names for the providers of Gemini's streams."""


class ChunkDecoder:
    """Decoder of one stream of LiteLLM's chunks, of providers that do not speak OpenAI's protocol."""

    def __init__(self, tool_names: frozenset[str] = frozenset()) -> None:
        self._decoder = CompletionDecoder(tool_names=tool_names)

    def chunks(self, chunk: Any) -> list[ChatChunk]:
        """Return the chat's chunks in one chunk of LiteLLM's: mostly one, none if it has no content."""
        document = chunk.model_dump(exclude_none=True)
        # `chunk.model` is the requested model.
        for choice in document.get("choices") or ():
            add_annotations(choice.get("delta") or {})
        document["model"] = (getattr(chunk, "_hidden_params", None) or {}).get("provider_response_model")
        return self._decoder.chunks(document)

    def last(self) -> list[ChatChunk]:
        """Return the chunks for the end of the stream."""
        return self._decoder.last()


def add_annotations(message: dict[str, Any]) -> None:
    """Make OpenAI's annotations of Anthropic's citations, which LiteLLM keeps in fields of its own.

    Citations of another form, such as Cohere's, are left out.
    """
    fields = message.get("provider_specific_fields") or {}
    blocks = fields.get("citations") or [[fields.get("citation")]]
    sources = [
        {
            "url": citation.get("url"),
            "title": citation.get("title") or citation.get("document_title"),
            "content": citation.get("cited_text"),
        }
        for citations in blocks
        if isinstance(citations, list)
        for citation in citations
        if isinstance(citation, dict)
    ]
    if sources:
        message["annotations"] = [{"type": "url_citation", "url_citation": source} for source in sources]


def raw_response(stream: Any) -> Any:
    """Return the HTTP response behind a stream of OpenAI's SDK, or None; a Router hides it."""
    if getattr(stream, "custom_llm_provider", None) != "openai":
        return None
    response = getattr(getattr(stream, "completion_stream", None), "response", None)
    return response if hasattr(response, "aiter_bytes") else None


class Watch:
    """Whether a stream is whole, which LiteLLM does not pass on.

    A stream that was cut off gets the finish reason "stop" from LiteLLM. It keeps all
    chunks that came from the provider, though, and those that it invents are not
    among them. Of Gemini it gives each chunk a "stop": there the lines themselves
    are looked at. A Router hides them.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._lines: _Lines | None = None
        source = getattr(stream, "completion_stream", None)
        provider = getattr(stream, "custom_llm_provider", None)
        lines = getattr(source, "streaming_response", None)
        if source is not None and provider in GEMINI and lines is not None:
            self._lines = source.streaming_response = _Lines(lines)

    def is_whole(self) -> bool:
        """Return whether the provider has finished the response, as far as the stream shows it.

        Raises ``UpstreamError`` for a finish reason of Gemini that means a failure: LiteLLM calls each one "stop" that
        it does not know.
        """
        if self._lines is not None:
            return finish_reason_of(self._lines.reason) is not None
        if getattr(self._stream, "fallback_headers_adopted", False):
            return True  # another deployment took over inside of the Router; nothing of its stream is seen
        return any(choice.finish_reason for chunk in self._stream.chunks for choice in chunk.choices)


class _Lines:
    """The lines of Gemini's stream, on their way to LiteLLM."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines
        self.reason: str | None = None
        """The reason to finish, once one came and all lines before it were JSON."""

    async def __aiter__(self) -> AsyncIterator[str]:
        broken = False
        async for line in self._lines:
            if line.startswith(":"):
                continue  # LiteLLM takes a comment for the start of a document, and then loses the response
            data = line.removeprefix("data:").strip()
            if data.startswith("{"):
                try:
                    chunk = json.loads(data)
                except ValueError:
                    broken = True
                else:
                    self.reason = None if broken else self.reason or gemini_reason(chunk)
            yield line


def gemini_reason(chunk: dict[str, Any]) -> str | None:
    """Return the finish reason in a chunk or response of Gemini, or the block reason of its prompt, or None."""
    candidates = chunk.get("candidates") or ()
    blocked = (chunk.get("promptFeedback") or {}).get("blockReason")
    reasons = [blocked, *(candidate.get("finishReason") for candidate in candidates)]
    return next((str(reason) for reason in reasons if reason), None)
