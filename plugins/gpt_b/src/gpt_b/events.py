"""From the events of Anthropic's stream to the chunks of a chat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gpt_b.citations import CitationReader
from gpt_b.thinking import FORMAT
from handler_host.chat import (
    ChatChunk,
    FinishChunk,
    FinishReason,
    ModelChunk,
    ReasoningChunk,
    RefusalChunk,
    TextChunk,
    ToolCallChunk,
    Usage,
    UsageChunk,
    finish_reason_of,
    token_count,
)
from handler_host.plugin import UpstreamError, error_from_document, find_error

_COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class _ToolCall:
    """A tool call in progress."""

    def __init__(self, index: int, block: Mapping[str, Any]) -> None:
        self._index = index
        self._block = block
        self._has_arguments = False

    def start(self) -> ToolCallChunk:
        return ToolCallChunk(index=self._index, id=_text(self._block, "id") or None, name=_text(self._block, "name"))

    def add(self, fragment: str) -> ToolCallChunk:
        self._has_arguments = True
        return ToolCallChunk(index=self._index, arguments=fragment)

    def stop(self) -> list[ChatChunk]:
        """Return the arguments of a call that streamed none: often ``{}``."""
        if self._has_arguments:
            return []
        arguments = self._block.get("input") or {}
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return [ToolCallChunk(index=self._index, arguments=text)]


class EventDecoder:
    """Decoder of one response: the events of a stream, or a whole message in place of a stream.

    Unknown types and fields are skipped, as Anthropic asks its clients to do.
    """

    def __init__(self, content_type: str = "") -> None:
        self._content_type = content_type
        self._model: str | None = None
        """The model, until its chunk is returned."""
        self._service_tier: str | None = None
        self._counts: dict[str, int] = {}
        """Token counts so far; a later event has higher ones, or leaves them out."""
        self._calls: dict[object, _ToolCall] = {}
        """Tool calls in progress, by the index of their block."""
        self._call_count = 0
        self._citations = CitationReader()
        self._reason: FinishReason | None = None
        self._stop_sequence: str | None = None
        self._refusal = ""
        self._is_stopped = False

    @property
    def is_finished(self) -> bool:
        """Whether the stop reason, or the end of the message, has come."""
        return self._reason is not None or self._is_stopped

    def chunks(self, document: Any) -> list[ChatChunk]:
        """Return the chunks in the data of one event: mostly one or none.

        Raises ``UpstreamError`` for an error, and for a document that is not an event of Anthropic's.
        """
        if not isinstance(document, Mapping) or not isinstance(document.get("type"), str):
            if document and find_error(document) is not None:
                raise error_from_document(document, content_type=self._content_type)
            if document == {}:
                return []  # the ping of a proxy
            start = json.dumps(document, default=str)[:200]
            place = self._content_type or "no content type"
            raise UpstreamError(f"the provider sent an event that is not one of Anthropic's ({place}): {start}")
        if document["type"] == "error":
            raise error_from_document(document, content_type=self._content_type)
        return self._with_model(self._translate(document["type"], document))

    def last(self) -> list[ChatChunk]:
        """Return the chunks for the end of the stream; one that was cut off has no finish reason."""
        chunks = self._citations.stop()
        chunks += [chunk for call in self._calls.values() for chunk in call.stop()]
        self._calls.clear()
        if self._refusal:
            chunks.append(RefusalChunk(text=self._refusal))
        reason = self._reason
        if reason is None and self._is_stopped:
            reason = finish_reason_of("end_turn", has_tool_calls=self._call_count > 0)
        if reason is not None:
            chunks.append(FinishChunk(reason=reason, stop_sequence=self._stop_sequence))
        if any(self._counts.values()):
            chunks.append(UsageChunk(usage=_usage(self._counts)))
        return self._with_model(chunks)

    def _with_model(self, chunks: list[ChatChunk]) -> list[ChatChunk]:
        """Return the chunks, the first ones with the model before them."""
        # With the first content and not before it: until then the call can be retried.
        if chunks and self._model:
            chunks.insert(0, ModelChunk(model=self._model, service_tier=self._service_tier))
            self._model = None
        return chunks

    def _translate(self, kind: str, event: Mapping[str, Any]) -> list[ChatChunk]:
        index = event.get("index")
        index = index if isinstance(index, int) else 0
        match kind:
            case "content_block_delta":
                return self._add(index, _object(event, "delta"))
            case "content_block_start":
                return self._start(index, _object(event, "content_block"))
            case "content_block_stop":
                call = self._calls.pop(index, None)
                return call.stop() if call is not None else self._citations.stop()
            case "message_start":
                self._start_message(_object(event, "message"))
            case "message_delta":
                self._count(event)
                self._finish(_object(event, "delta"))
            case "message_stop":
                self._is_stopped = True
            case "message":
                return self._add_message(event)
        return []

    def _start_message(self, message: Mapping[str, Any]) -> None:
        self._model = _text(message, "model") or None
        tier = _text(_object(message, "usage"), "service_tier")
        self._service_tier = "default" if tier == "standard" else tier or None
        self._count(message)

    def _add_message(self, message: Mapping[str, Any]) -> list[ChatChunk]:
        """Return the chunks of a whole message."""
        self._start_message(message)
        content = message.get("content")
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        chunks: list[ChatChunk] = []
        for index, block in enumerate(blocks):
            if isinstance(block, Mapping):
                chunks += [*self._start(index, block), *self._citations.stop()]
        self._finish(message)
        self._is_stopped = True
        return chunks

    def _start(self, index: int, block: Mapping[str, Any]) -> list[ChatChunk]:
        if block.get("type") == "tool_use":
            chunks = self._calls.pop(index).stop() if index in self._calls else []
            call = self._calls[index] = _ToolCall(self._call_count, block)
            self._call_count += 1
            return [*chunks, call.start()]
        match block.get("type"):
            case "text":
                citations = block.get("citations")
                for citation in citations if isinstance(citations, list) else ():
                    self._citations.add(citation)
                return self._text_chunks(_text(block, "text"))
            case "thinking" if _text(block, "thinking") or _text(block, "signature"):
                signature = _text(block, "signature") or None
                return [ReasoningChunk(text=_text(block, "thinking"), signature=signature, format=FORMAT)]
            case "redacted_thinking":
                return [ReasoningChunk(encrypted=_text(block, "data"), format=FORMAT)]
        return []

    def _add(self, index: int, delta: Mapping[str, Any]) -> list[ChatChunk]:
        match delta.get("type"):
            case "text_delta":
                return self._text_chunks(_text(delta, "text"))
            case "citations_delta":
                self._citations.add(delta.get("citation"))
            case "input_json_delta" if index in self._calls and _text(delta, "partial_json"):
                return [self._calls[index].add(_text(delta, "partial_json"))]
            case "thinking_delta" if _text(delta, "thinking"):
                return [ReasoningChunk(text=_text(delta, "thinking"), format=FORMAT)]
            case "signature_delta" if _text(delta, "signature"):
                return [ReasoningChunk(signature=_text(delta, "signature"), format=FORMAT)]
        return []

    def _text_chunks(self, text: str) -> list[ChatChunk]:
        self._citations.add_text(text)
        return [TextChunk(text=text)] if text else []

    def _count(self, source: Mapping[str, Any]) -> None:
        usage = _object(source, "usage")
        for name in _COUNTS:
            count = token_count(usage.get(name))
            if count:
                self._counts[name] = count
        thinking = token_count(_object(usage, "output_tokens_details").get("thinking_tokens"))
        if thinking:
            self._counts["thinking_tokens"] = thinking

    def _finish(self, source: Mapping[str, Any]) -> None:
        reason = finish_reason_of(source.get("stop_reason"), has_tool_calls=self._call_count > 0)
        self._reason = reason or self._reason
        self._stop_sequence = _text(source, "stop_sequence") or self._stop_sequence
        self._refusal = _text(_object(source, "stop_details"), "explanation") or self._refusal


def _usage(counts: Mapping[str, int]) -> Usage:
    """Return the counts as a chat has them: Anthropic's input tokens are without those of the cache."""
    read, written = counts.get("cache_read_input_tokens", 0), counts.get("cache_creation_input_tokens", 0)
    prompt, completion = counts.get("input_tokens", 0) + read + written, counts.get("output_tokens", 0)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=counts.get("thinking_tokens", 0),
    )


def _object(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = source.get(name)
    return value if isinstance(value, Mapping) else {}


def _text(source: Mapping[str, Any], name: str) -> str:
    value = source.get(name)
    return value if isinstance(value, str) else ""
