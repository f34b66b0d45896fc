"""Decode the events of OpenAI's Responses API to the chunks of a chat. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from gpt_a.responses_body import FORMAT
from handler_host.chat import (
    ChatChunk,
    FinishChunk,
    ModelChunk,
    ReasoningChunk,
    RefusalChunk,
    TextChunk,
    ToolCallChunk,
    Usage,
    UsageChunk,
    finish_reason_of,
    usage_from,
)
from handler_host.plugin import UpstreamError, error_from_document


class _Item(msgspec.Struct):
    """An item of the response: of the fields, those that its type has."""

    type: str
    call_id: str = ""
    name: str = ""
    encrypted_content: str | None = None


class _Details(msgspec.Struct):
    reason: str


class _Response(msgspec.Struct):
    """The state of the response."""

    model: str = ""
    incomplete_details: _Details | None = None
    service_tier: str | None = None
    usage: Any = None


class _Event(msgspec.Struct):
    """An event: of the fields, those that its type has."""

    type: str
    delta: str = ""
    output_index: int = 0
    summary_index: int = 0
    item: _Item | None = None
    response: _Response | None = None


class ResponseDecoder:
    """Decoder of one response; ``content_type`` is for messages."""

    def __init__(self, content_type: str = "") -> None:
        self._content_type = content_type
        self._calls: dict[int, int] = {}
        """Number of each tool call, by the index of its item in the output."""
        self._model = ""
        """The model, until the first content."""
        self._finish: str | None = None
        self._usage: Usage | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the last event has come."""
        return self._finish is not None

    def chunks(self, document: Any) -> list[ChatChunk]:
        """Return the chunks in one event, none for most kinds; raises ``UpstreamError``."""
        try:
            event = msgspec.convert(document, _Event)
        except msgspec.ValidationError:
            raise UpstreamError(f"the provider sent an event that is not OpenAI's: {str(document)[:200]}") from None
        if event.type == "error":
            raise error_from_document(document, content_type=self._content_type)
        if event.type == "response.failed":
            raise error_from_document(document.get("response") or document, content_type=self._content_type)
        chunks = self._content(event)
        # With the first content and not before it: until then the call can be retried.
        if chunks and self._model:
            chunks.insert(0, ModelChunk(model=self._model))
            self._model = ""
        return chunks

    def last(self) -> list[ChatChunk]:
        """Return the finish reason, unless the response was cut off, and the usage if there is one."""
        reason = finish_reason_of(self._finish, has_tool_calls=bool(self._calls))
        chunks: list[ChatChunk] = [FinishChunk(reason=reason)] if reason is not None else []
        if self._usage is not None:
            chunks.append(UsageChunk(usage=self._usage))
        return chunks

    def _content(self, event: _Event) -> list[ChatChunk]:
        match event:
            case _Event(type="response.output_text.delta"):
                return [TextChunk(text=event.delta)]
            case _Event(type="response.refusal.delta"):
                return [RefusalChunk(text=event.delta)]
            case _Event(type="response.reasoning_summary_text.delta"):
                return [ReasoningChunk(text=event.delta)]
            case _Event(type="response.reasoning_summary_part.added") if event.summary_index:
                return [ReasoningChunk(text="\n\n")]
            case _Event(type="response.output_item.added", item=_Item(type="function_call") as item):
                number = self._calls[event.output_index] = len(self._calls)
                return [ToolCallChunk(index=number, id=item.call_id, name=item.name)]
            case _Event(type="response.function_call_arguments.delta") if event.output_index in self._calls:
                return [ToolCallChunk(index=self._calls[event.output_index], arguments=event.delta)]
            case _Event(type="response.output_item.done", item=_Item(encrypted_content=str() as data)):
                return [ReasoningChunk(encrypted=data, format=FORMAT)]
            case _Event(type="response.created", response=_Response(model=model)):
                self._model = model
            case _Event(type="response.completed" | "response.incomplete", response=_Response() as response):
                details = response.incomplete_details
                self._finish = details.reason if details is not None else event.type.removeprefix("response.")
                self._usage = usage_from(response.usage)
                if response.service_tier is not None:  # until here it is that of the request
                    return [ModelChunk(model=response.model, service_tier=response.service_tier)]
        return []
