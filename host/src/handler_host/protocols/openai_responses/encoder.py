"""One response for a client of OpenAI's Responses API, whole or event by event. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from handler_host.chat import types as chat
from handler_host.chat.conversion import to_chunks
from handler_host.protocols.openai_responses.requests import ResponseRequest
from handler_host.protocols.openai_responses.responses import (
    Failure,
    FunctionCall,
    Message,
    OutputText,
    Reason,
    Refusal,
    Response,
    usage_of,
)

Event = tuple[str, dict[str, Any]]
"""The name and the data of an event."""

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reasons of incomplete responses, in the words of this API."""


class ResponseEncoder:
    """Makes one response, whole or event by event, from the chunks of a handler.

    All items stay open until the end, because a handler may continue any of them.
    """

    def __init__(self, *, request_id: str, created: int, request: ResponseRequest) -> None:
        self._request_id = request_id
        self.response = Response(
            id=f"resp_{request_id}",
            created_at=created,
            model=request.model,
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            parallel_tool_calls=request.parallel_tool_calls is not False,
            temperature=request.temperature,
            text={"format": (request.text and request.text.format) or chat.TextFormat()},
            tool_choice=request.tool_choice or "auto",
            tools=list(request.tools or ()),
            top_p=request.top_p,
            user=request.user,
        )
        self._message: Message | None = None
        self._calls: dict[int, FunctionCall] = {}
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
            case chat.FinishChunk():
                self._finish = self._finish or chunk.reason
            case chat.ModelChunk():
                self.response.model = chunk.model
            case chat.UsageChunk():
                self.response.usage = usage_of(chunk.usage)
            case chat.ReasoningChunk():
                pass  # no reasoning item: clients cannot send one back yet
        return []

    def last(self) -> list[Event]:
        """Return the events to send after the last chunk."""
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
        part.text += text
        events.append(self._event("response.output_text.delta", **place, delta=text, logprobs=[]))
        return events

    def _add_refusal(self, text: str) -> list[Event]:
        if not text:
            return []
        events, part, place = self._part(Refusal)
        part.refusal += text
        events.append(self._event("response.refusal.delta", **place, delta=text))
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
            number = f"{self._request_id}_{chunk.index}"
            call = FunctionCall(id=f"fc_{number}", call_id=chunk.id or f"call_{number}", name=chunk.name or "")
            self._calls[chunk.index] = call
            events.append(self._added(call))
        if chunk.arguments:
            call.arguments += chunk.arguments
            place = self._place(call)
            events.append(self._event("response.function_call_arguments.delta", **place, delta=chunk.arguments))
        return events

    def _added(self, item: Message | FunctionCall) -> Event:
        self.response.output.append(item)
        index = len(self.response.output) - 1
        return self._event("response.output_item.added", output_index=index, item=msgspec.to_builtins(item))

    def _finish_item(self, item: Message | FunctionCall, status: str) -> list[Event]:
        item.status = status
        events: list[Event] = []
        if isinstance(item, FunctionCall):
            place = self._place(item)
            events.append(
                self._event("response.function_call_arguments.done", **place, name=item.name, arguments=item.arguments)
            )
        else:
            for index, part in enumerate(item.content):
                place = self._place(item, content_index=index)
                if isinstance(part, OutputText):
                    events.append(self._event("response.output_text.done", **place, text=part.text, logprobs=[]))
                else:
                    events.append(self._event("response.refusal.done", **place, refusal=part.refusal))
                events.append(self._event("response.content_part.done", **place, part=part))
        index = self.response.output.index(item)
        events.append(self._event("response.output_item.done", output_index=index, item=item))
        return events

    def _place(self, item: Message | FunctionCall, **more: int) -> dict[str, Any]:
        return {"item_id": item.id, "output_index": self.response.output.index(item), **more}

    def _event(self, name: str, /, **data: Any) -> Event:
        if "response" in data:
            # A copy of the present state: the response continues to change.
            data["response"] = msgspec.to_builtins(self.response)
        number = self._next_number
        self._next_number += 1
        return name, {"type": name, "sequence_number": number, **data}
