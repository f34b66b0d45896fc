"""LiteLLM's streams as chunks of a chat, and whether a stream is whole."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from handler_host.chat import ChatChunk, CompletionDecoder, finish_reason_of
from handler_host.plugin import error_from_document, read_documents

GEMINI = frozenset({"gemini", "vertex_ai", "vertex_ai_beta"})
"""LiteLLM's names for the providers of Gemini's streams."""
FIELDS = ("data:", "event:", "id:", "retry:")
"""Beginnings of the lines of an event stream."""


class ChunkDecoder:
    """Decoder of one stream of LiteLLM's chunks, of providers that do not speak OpenAI's protocol."""

    def __init__(self, tool_names: frozenset[str] = frozenset()) -> None:
        self._decoder = CompletionDecoder(tool_names=tool_names)

    def chunks(self, chunk: Any, reason: str | None = None) -> list[ChatChunk]:
        """Return the chat's chunks in one chunk of LiteLLM's: mostly one, none if it has no content.

        ``reason`` is the provider's own finish reason, if it is known.
        """
        document = chunk.model_dump(exclude_none=True)
        # `chunk.model` is the requested model.
        for choice in document.get("choices") or ():
            add_annotations(choice.get("delta") or {})
            if choice.get("finish_reason"):
                choice["finish_reason"] = finish_of(reason, choice["finish_reason"])
        document["model"] = (getattr(chunk, "_hidden_params", None) or {}).get("provider_response_model")
        return self._decoder.chunks(document)

    def last(self) -> list[ChatChunk]:
        """Return the chunks for the end of the stream."""
        return self._decoder.last()


def finish_of(reason: str | None, theirs: str | None) -> str | None:
    """Return the provider's own finish reason; ``theirs`` is LiteLLM's.

    A call of LiteLLM's own tool, which it adds for a JSON schema, is text for the client.
    """
    return theirs if not reason or reason == "tool_use" else reason


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
    """Whether a stream is whole, and why it ended, which LiteLLM does not pass on.

    A stream that was cut off gets the finish reason "stop" from LiteLLM. It keeps all
    chunks that came from the provider, though, and those that it invents are not
    among them. Of Gemini it gives each chunk a "stop", and of Anthropic an unknown reason: there the lines themselves
    are read. A Router hides them.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._lines: _Lines | None = None
        source = getattr(stream, "completion_stream", None)
        self._is_gemini = getattr(stream, "custom_llm_provider", None) in GEMINI
        lines = getattr(source, "streaming_response", None)
        if source is not None and lines is not None and (self._is_gemini or stream.custom_llm_provider == "anthropic"):
            headers = getattr(stream, "_response_headers", None) or {}
            content_type = headers.get("llm_provider-content-type", "unknown content type")
            self._lines = source.streaming_response = _Lines(lines, content_type)

    @property
    def reason(self) -> str | None:
        """The finish reason in Anthropic's own word, once it came."""
        return self._lines.reason if self._lines is not None and not self._is_gemini else None

    def is_whole(self) -> bool:
        """Return whether the provider has finished the response, as far as the stream shows it.

        Raises ``UpstreamError`` for a finish reason of Gemini that means a failure: LiteLLM calls each one "stop" that
        it does not know.
        """
        if self._lines is not None and self._is_gemini:
            return finish_reason_of(self._lines.reason) is not None
        if getattr(self._stream, "fallback_headers_adopted", False):
            return True  # another deployment took over inside of the Router; nothing of its stream is seen
        return any(choice.finish_reason for chunk in self._stream.chunks for choice in chunk.choices)


class _Lines:
    """The lines of Gemini's or Anthropic's stream, on their way to LiteLLM.

    LiteLLM loses errors in them, and whole responses instead of a stream. Iteration raises ``UpstreamError``.
    """

    def __init__(self, lines: Any, content_type: str) -> None:
        self._lines = lines
        self._content_type = content_type
        self.reason: str | None = None
        """The reason to finish, once one came and all lines before it were JSON."""

    async def __aiter__(self) -> AsyncIterator[str]:
        broken = has_events = False
        text: list[str] = []
        """Lines of a response that is not an event stream."""
        async for line in self._lines:
            if line.startswith(":"):
                continue  # LiteLLM takes a comment for the start of a document, and then loses the response
            line = line.removeprefix("\ufeff")
            has_events = has_events or line.startswith(FIELDS)
            if not has_events:
                text.append(line)
                continue
            data = line.removeprefix("data:").strip()
            if data.startswith("{"):
                try:
                    chunk = json.loads(data)
                except ValueError:
                    broken = True
                else:
                    self._read(chunk)
                    self.reason = None if broken else self.reason
            yield line
        if not has_events:
            async for document in read_documents(_bytes_of(text), self._content_type):
                if not isinstance(document, dict) or "candidates" not in document:
                    raise error_from_document(document, content_type=self._content_type)
                self._read(document)
                yield json.dumps(document)

    def _read(self, chunk: dict[str, Any]) -> None:
        if chunk.get("error"):
            raise error_from_document(chunk, content_type=self._content_type)
        self.reason = self.reason or gemini_reason(chunk) or (chunk.get("delta") or {}).get("stop_reason")


async def _bytes_of(lines: list[str]) -> AsyncIterator[bytes]:
    yield "\n".join(lines).encode(errors="replace")


def gemini_reason(chunk: dict[str, Any]) -> str | None:
    """Return the finish reason in a chunk or response of Gemini, or the block reason of its prompt, or None."""
    candidates = chunk.get("candidates") or ()
    blocked = (chunk.get("promptFeedback") or {}).get("blockReason")
    reasons = [blocked, *(candidate.get("finishReason") for candidate in candidates)]
    return next((str(reason) for reason in reasons if reason), None)
