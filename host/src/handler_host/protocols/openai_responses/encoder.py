"""One response for a client of OpenAI's Responses API, whole or event by event. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import asdict

from handler_host.chat import types as chat
from handler_host.chat.conversion import to_chunks
from handler_host.protocols.custom_tools import custom_input
from handler_host.protocols.opaque import CALL_FORMAT, seal
from handler_host.protocols.openai_responses.input import FORMAT
from handler_host.protocols.openai_responses.requests import ResponseRequest
from handler_host.protocols.openai_responses.responses import (
    CustomCall,
    Failure,
    FunctionCall,
    Item,
    Message,
    OutputText,
    Reason,
    Reasoning,
    ReasoningItem,
    Refusal,
    Response,
    SummaryText,
    usage_of,
)
from handler_host.protocols.url_citations import url_citation

Event = tuple[str, dict[str, Any]]
"""The name and the data of an event."""

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reasons of incomplete responses, in the words of this API."""
_TEXT_FIELDS: dict[Any, str] = {
    OutputText: "text",
    Refusal: "refusal",
    SummaryText: "text",
    FunctionCall: "arguments",
    CustomCall: "input",
}
"""Field of each kind of text that grows during a stream."""


class ResponseEncoder:
    """Makes one response, whole or event by event, from the chunks of a handler.

    All items stay open until the end, because a handler may continue any of them.
    """

    def __init__(self, *, request_id: str, created: int, request: ResponseRequest) -> None:
        self._request_id = request_id
        self._tools = request.tool_table
        reasoning = request.reasoning
        self.response = Response(
            id=f"resp_{request_id}",
            created_at=created,
            model=request.model,
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            parallel_tool_calls=request.parallel_tool_calls is not False,
            reasoning=Reasoning(effort=reasoning.effort, summary=reasoning.summary) if reasoning else Reasoning(),
            temperature=request.temperature,
            text={"format": (request.text and request.text.format) or chat.TextFormat()},
            tool_choice=request.tool_choice or "auto",
            tools=[tool for tool in request.tools or () if tool is not None],
            top_p=request.top_p,
            user=request.user,
        )
        self._message: Message | None = None
        self._reasoning: ReasoningItem | None = None
        """Reasoning that the next chunk continues."""
        self._calls: dict[int, FunctionCall | CustomCall] = {}
        self._indices: dict[str, int] = {}
        """Index of each item in the output, by its ID."""
        self._strings: dict[int, tuple[Any, list[str]]] = {}
        """The strings of each growing text, by its identity: joined once, because appending is quadratic."""
        self._text_length = 0
        self._logprobs: list[chat.TokenLogprob] = []
        """Log probabilities of the next text."""
        self._finish: chat.FinishReason | None = None
        self._has_started = False
        self._next_number = 0

    def whole(self, response: chat.ChatResponse) -> Response:
        """Return a whole response."""
        for chunk in to_chunks(response):
            self.events(chunk)
        self.last()
        return self.response

    def events(self, chunk: chat.ChatChunk) -> list[Event]:
        """Return the events for one chunk; some chunks have none."""
        match chunk:
            case chat.TextChunk():
                return [*self._start(), *self._add_text(chunk.text)]
            case chat.ToolCallChunk():
                return [*self._start(), *self._add_call(chunk)]
            case chat.RefusalChunk():
                return [*self._start(), *self._add_refusal(chunk.text)]
            case chat.ReasoningChunk():
                return [*self._start(), *self._add_reasoning(chunk)]
            case chat.CitationChunk():
                return self._add_citation(chunk.citation)
            case chat.FinishChunk():
                self._finish = self._finish or chunk.reason
            case chat.LogprobsChunk():
                self._logprobs += chunk.content
            case chat.ModelChunk():
                self.response.model = chunk.model
                self.response.service_tier = chunk.service_tier or self.response.service_tier
            case chat.UsageChunk():
                self.response.usage = usage_of(chunk.usage)
            case chat.IgnoredChunk():
                pass
        return []

    def last(self) -> list[Event]:
        """Return the events to send after the last chunk."""
        self._join()
        events = self._start()
        reason = INCOMPLETE.get(self._finish or "stop")
        status = "completed" if reason is None else "incomplete"
        for item in self.response.output:
            events += self._finish_item(item, status)
        self.response.status = status
        self.response.incomplete_details = Reason(reason=reason) if reason is not None else None
        events.append(self._event(f"response.{status}", response=self.response))
        return events

    def failed(self, code: str, message: str) -> list[Event]:
        """Return the events to send for an error."""
        self._join()
        self.response.status = "failed"
        self.response.error = Failure(code=code, message=message)
        return [*self._start(), self._event("response.failed", response=self.response)]

    def _start(self) -> list[Event]:
        if self._has_started:
            return []
        self._has_started = True
        return [
            self._event("response.created", response=self.response),
            self._event("response.in_progress", response=self.response),
        ]

    def _add_text(self, text: str) -> list[Event]:
        if not text:
            return []
        events, part, place = self._part(OutputText)
        self._grow(part, text)
        self._text_length += len(text)
        logprobs, self._logprobs = self._logprobs, []
        part.logprobs += logprobs
        events.append(self._event("response.output_text.delta", **place, delta=text, logprobs=logprobs))
        return events

    def _add_citation(self, citation: chat.Citation) -> list[Event]:
        """Return the event of a source of the text so far; without text there is nothing that it could stand for."""
        source = url_citation(citation, self._text_length)
        if source is None or not self._text_length:
            return []
        _, part, place = self._part(OutputText)
        annotation = {"type": "url_citation", **asdict(source)}
        place["annotation_index"] = len(part.annotations)
        part.annotations.append(annotation)
        return [self._event("response.output_text.annotation.added", **place, annotation=annotation)]

    def _add_refusal(self, text: str) -> list[Event]:
        if not text:
            return []
        events, part, place = self._part(Refusal)
        self._grow(part, text)
        events.append(self._event("response.refusal.delta", **place, delta=text))
        return events

    def _add_reasoning(self, chunk: chat.ReasoningChunk) -> list[Event]:
        events: list[Event] = []
        item = self._reasoning
        if item is None:
            number = sum(isinstance(each, ReasoningItem) for each in self.response.output)
            item = self._reasoning = ReasoningItem(id=f"rs_{self._request_id}_{number}")
            events.append(self._added(item))
        if chunk.text:
            place = self._place(item, summary_index=0)
            if not item.summary:
                item.summary.append(SummaryText())
                events.append(self._event("response.reasoning_summary_part.added", **place, part=SummaryText()))
            self._grow(item.summary[0], chunk.text)
            events.append(self._event("response.reasoning_summary_text.delta", **place, delta=chunk.text))
        if chunk.signature is not None or chunk.encrypted is not None:
            item.encrypted_content = seal(chunk, FORMAT)
            self._reasoning = None
        return events

    def _part(self, kind: type[Any]) -> tuple[list[Event], Any, dict[str, Any]]:
        """Return the message's part of this kind, with its path and the events that open it."""
        events: list[Event] = []
        if self._message is None:
            self._message = Message(id=f"msg_{self._request_id}")
            events.append(self._added(self._message))
        message = self._message
        for index, part in enumerate(message.content):
            if isinstance(part, kind):
                return events, part, self._place(message, content_index=index)
        part = kind()
        place = self._place(message, content_index=len(message.content))
        events.append(self._event("response.content_part.added", **place, part=kind()))
        message.content.append(part)
        return events, part, place

    def _add_call(self, chunk: chat.ToolCallChunk) -> list[Event]:
        events: list[Event] = []
        call = self._calls.get(chunk.index)
        if call is None:
            if chunk.signature is not None:  # as reasoning, which clients send back: a call has no field for it
                self._reasoning = None
                events += self._add_reasoning(chat.ReasoningChunk(encrypted=chunk.signature, format=CALL_FORMAT))
            call = self._calls[chunk.index] = self._new_call(chunk)
            events.append(self._added(call))
        if chunk.arguments:
            self._grow(call, chunk.arguments)
            if isinstance(call, FunctionCall):
                place = self._place(call)
                events.append(self._event("response.function_call_arguments.delta", **place, delta=chunk.arguments))
        return events

    def _new_call(self, chunk: chat.ToolCallChunk) -> FunctionCall | CustomCall:
        number = f"{self._request_id}_{chunk.index}"
        tool = self._tools.client_name(chunk.name or "")
        call_id = chunk.id or f"call_{number}"
        namespace = UNSET if tool.namespace is None else tool.namespace
        if tool.is_custom:
            return CustomCall(id=f"ctc_{number}", call_id=call_id, name=tool.name, namespace=namespace)
        return FunctionCall(id=f"fc_{number}", call_id=call_id, name=tool.name, namespace=namespace)

    def _grow(self, part: Any, text: str) -> None:
        self._strings.setdefault(id(part), (part, []))[1].append(text)

    def _join(self) -> None:
        """Set the text of each part to what has come of it."""
        for part, strings in self._strings.values():
            text = "".join(strings)
            setattr(part, _TEXT_FIELDS[type(part)], custom_input(text) if isinstance(part, CustomCall) else text)
        self._strings.clear()

    def _added(self, item: Item) -> Event:
        index = self._indices[item.id] = len(self.response.output)
        self.response.output.append(item)
        return self._event("response.output_item.added", output_index=index, item=msgspec.to_builtins(item))

    def _finish_item(self, item: Item, status: str) -> list[Event]:
        item.status = status
        events: list[Event] = []
        match item:
            case FunctionCall():
                place = self._place(item)
                events.append(
                    self._event(
                        "response.function_call_arguments.done", **place, name=item.name, arguments=item.arguments
                    )
                )
            case CustomCall():
                place = self._place(item)
                events.append(self._event("response.custom_tool_call_input.delta", **place, delta=item.input))
                events.append(self._event("response.custom_tool_call_input.done", **place, input=item.input))
            case ReasoningItem():
                for index, summary in enumerate(item.summary):
                    place = self._place(item, summary_index=index)
                    events.append(self._event("response.reasoning_summary_text.done", **place, text=summary.text))
                    events.append(self._event("response.reasoning_summary_part.done", **place, part=summary))
            case Message():
                events += self._finish_message(item)
        events.append(self._event("response.output_item.done", output_index=self._indices[item.id], item=item))
        return events

    def _finish_message(self, message: Message) -> list[Event]:
        events: list[Event] = []
        for index, part in enumerate(message.content):
            place = self._place(message, content_index=index)
            if isinstance(part, OutputText):
                events.append(self._event("response.output_text.done", **place, text=part.text, logprobs=part.logprobs))
            else:
                events.append(self._event("response.refusal.done", **place, refusal=part.refusal))
            events.append(self._event("response.content_part.done", **place, part=part))
        return events

    def _place(self, item: Item, **more: int) -> dict[str, Any]:
        return {"item_id": item.id, "output_index": self._indices[item.id], **more}

    def _event(self, name: str, /, **data: Any) -> Event:
        if "response" in data:
            # A copy of the present state: the response continues to change.
            data["response"] = msgspec.to_builtins(self.response)
        number = self._next_number
        self._next_number += 1
        return name, {"type": name, "sequence_number": number, **data}
