"""One answer for a client of OpenAI's Responses API, at once or event by event. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from handler_host.chat import types as chat
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
"""The name of an event of a stream, and what it carries."""

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""The finish reasons of answers that are not whole, in the words of this API."""


class ResponseEncoder:
    """Makes one answer, at once or event by event, of the pieces of a handler.

    All items stay open until the end: a handler may go on with any of them.
    """

    def __init__(self, *, request_id: str, created: int, asked: ResponseRequest) -> None:
        self._request_id = request_id
        self.response = Response(
            id=f"resp_{request_id}",
            created_at=created,
            model=asked.model,
            instructions=asked.instructions,
            max_output_tokens=asked.max_output_tokens,
            parallel_tool_calls=asked.parallel_tool_calls is not False,
            temperature=asked.temperature,
            text={"format": (asked.text and asked.text.format) or chat.TextFormat()},
            tool_choice=asked.tool_choice or "auto",
            tools=list(asked.tools or ()),
            top_p=asked.top_p,
            user=asked.user,
        )
        self._message: Message | None = None
        self._calls: dict[int, FunctionCall] = {}
        self._finish: chat.FinishReason | None = None
        self._begun = False
        self._number = 0

    def whole(self, answer: chat.ChatResponse) -> Response:
        """Return a whole answer."""
        calls = [
            chat.ToolCallDelta(index=number, id=call.id, name=call.function.name, arguments=call.function.arguments)
            for number, call in enumerate(answer.tool_calls or ())
        ]
        chunk = chat.ChatChunk(
            text=answer.text,
            refusal=answer.refusal,
            tool_calls=calls,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            model=answer.model,
        )
        self.events(chunk)
        self.last()
        return self.response

    def events(self, chunk: chat.ChatChunk) -> list[Event]:
        """Return what to send for one piece."""
        self.response.model = chunk.model or self.response.model
        if chunk.usage is not None:
            self.response.usage = usage_of(chunk.usage)
        self._finish = self._finish or chunk.finish_reason
        made = self._begin()
        if chunk.text:
            made += self._add_text(chunk.text)
        if chunk.refusal:
            made += self._add_refusal(chunk.refusal)
        for delta in chunk.tool_calls or ():
            made += self._add_call(delta)
        return made

    def last(self) -> list[Event]:
        """Return what to send when the pieces have ended."""
        made = self._begin()
        reason = INCOMPLETE.get(self._finish or "stop")
        status = "completed" if reason is None else "incomplete"
        for item in self.response.output:
            made += self._end(item, status)
        self.response.status = status
        self.response.incomplete_details = Reason(reason=reason) if reason is not None else None
        made.append(self._event(f"response.{status}", response=self.response))
        return made

    def failed(self, code: str, message: str) -> list[Event]:
        """Return what to send for an error."""
        self.response.status = "failed"
        self.response.error = Failure(code=code, message=message)
        return [*self._begin(), self._event("response.failed", response=self.response)]

    def _begin(self) -> list[Event]:
        if self._begun:
            return []
        self._begun = True
        return [
            self._event("response.created", response=self.response),
            self._event("response.in_progress", response=self.response),
        ]

    def _add_text(self, text: str) -> list[Event]:
        made, part, place = self._part(OutputText)
        part.text += text
        made.append(self._event("response.output_text.delta", **place, delta=text, logprobs=[]))
        return made

    def _add_refusal(self, text: str) -> list[Event]:
        made, part, place = self._part(Refusal)
        part.refusal += text
        made.append(self._event("response.refusal.delta", **place, delta=text))
        return made

    def _part(self, kind: type[Any]) -> tuple[list[Event], Any, dict[str, Any]]:
        """Return the events that open the message's part of this kind, the part, and where it is."""
        made: list[Event] = []
        if self._message is None:
            self._message = Message(id=f"msg_{self._request_id}")
            made.append(self._added(self._message))
        message = self._message
        for index, part in enumerate(message.content):
            if isinstance(part, kind):
                return made, part, self._place(message, content_index=index)
        part = kind()
        place = self._place(message, content_index=len(message.content))
        made.append(self._event("response.content_part.added", **place, part=kind()))
        message.content.append(part)
        return made, part, place

    def _add_call(self, delta: chat.ToolCallDelta) -> list[Event]:
        made: list[Event] = []
        call = self._calls.get(delta.index)
        if call is None:
            number = f"{self._request_id}_{delta.index}"
            call = FunctionCall(id=f"fc_{number}", call_id=delta.id or f"call_{number}", name=delta.name or "")
            self._calls[delta.index] = call
            made.append(self._added(call))
        if delta.arguments:
            call.arguments += delta.arguments
            place = self._place(call)
            made.append(self._event("response.function_call_arguments.delta", **place, delta=delta.arguments))
        return made

    def _added(self, item: Message | FunctionCall) -> Event:
        self.response.output.append(item)
        index = len(self.response.output) - 1
        return self._event("response.output_item.added", output_index=index, item=msgspec.to_builtins(item))

    def _end(self, item: Message | FunctionCall, status: str) -> list[Event]:
        item.status = status
        made: list[Event] = []
        if isinstance(item, FunctionCall):
            place = self._place(item)
            made.append(
                self._event("response.function_call_arguments.done", **place, name=item.name, arguments=item.arguments)
            )
        else:
            for index, part in enumerate(item.content):
                place = self._place(item, content_index=index)
                if isinstance(part, OutputText):
                    made.append(self._event("response.output_text.done", **place, text=part.text, logprobs=[]))
                else:
                    made.append(self._event("response.refusal.done", **place, refusal=part.refusal))
                made.append(self._event("response.content_part.done", **place, part=part))
        index = self.response.output.index(item)
        made.append(self._event("response.output_item.done", output_index=index, item=item))
        return made

    def _place(self, item: Message | FunctionCall, **more: int) -> dict[str, Any]:
        return {"item_id": item.id, "output_index": self.response.output.index(item), **more}

    def _event(self, name: str, /, **carried: Any) -> Event:
        if "response" in carried:
            # As it is now: it goes on changing.
            carried["response"] = msgspec.to_builtins(self.response)
        number, self._number = self._number, self._number + 1
        return name, {"type": name, "sequence_number": number, **carried}
