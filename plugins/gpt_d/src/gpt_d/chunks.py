"""LiteLLM's streams as chunks of a chat, and whether a stream is whole."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
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
        self._content_type = content_type
        self._iterator = self._read_all(aiter(lines))
        self.reason: str | None = None
        """The reason to finish, once one came and all lines before it were JSON."""

    def __aiter__(self) -> AsyncIterator[str]:
        """Return the same iterator each time: LiteLLM asks for it again for every chunk."""
        return self._iterator

    async def _read_all(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        broken = has_events = False
        async for line in lines:
            if line.startswith(":"):
                continue  # LiteLLM takes a comment for the start of a document, and then loses the response
            line = line.removeprefix("\ufeff")
            has_events = has_events or line.startswith(FIELDS)
            if not has_events:
                if line.strip():
                    async for event in self._events(line, lines):
                        yield event
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

    async def _events(self, first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
        """Yield the events for a response that does not begin as an event stream."""
        async for document in read_documents(_bytes_of(first, rest), self._content_type):
            if not isinstance(document, dict) or not document.keys() & {"candidates", "type"}:
                raise error_from_document(document, content_type=self._content_type)
            for event in _events_of(document) if document.get("type") == "message" else [document]:
                self._read(event)
                yield f"data: {json.dumps(event)}"

    def _read(self, chunk: dict[str, Any]) -> None:
        if chunk.get("error"):
            raise error_from_document(chunk, content_type=self._content_type)
        self.reason = self.reason or gemini_reason(chunk) or (chunk.get("delta") or {}).get("stop_reason")


async def _bytes_of(first: str, rest: AsyncIterator[str]) -> AsyncIterator[bytes]:
    yield first.encode(errors="replace")
    async for line in rest:
        yield f"\n{line}".encode(errors="replace")


def _events_of(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events that Anthropic sends for a message in a stream."""
    blocks = message.get("content") or ()
    yield {"type": "message_start", "message": {**message, "content": []}}
    for index, block in enumerate(blocks):
        yield {"type": "content_block_start", "index": index, "content_block": block}
        for delta in _deltas_of(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ends = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    yield {"type": "message_delta", "delta": ends, "usage": message.get("usage") or {}}
    yield {"type": "message_stop"}


def _deltas_of(block: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what LiteLLM does not read at the start of a block."""
    match block.get("type"):
        case "tool_use":
            return [{"type": "input_json_delta", "partial_json": json.dumps(block.get("input") or {})}]
        case "thinking":
            return [{"type": "thinking_delta", "thinking": block.get("thinking") or ""}]
        case _:
            return [{"type": "citations_delta", "citation": each} for each in block.get("citations") or ()]


def gemini_reason(chunk: dict[str, Any]) -> str | None:
    """Return the finish reason in a chunk or response of Gemini, or the block reason of its prompt, or None."""
    candidates = chunk.get("candidates") or ()
    blocked = (chunk.get("promptFeedback") or {}).get("blockReason")
    reasons = [blocked, *(candidate.get("finishReason") for candidate in candidates)]
    return next((str(reason) for reason in reasons if reason), None)
