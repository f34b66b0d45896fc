"""The input of OpenAI's Responses API, and its translation to messages. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.custom_tools import custom_arguments
from handler_host.protocols.opaque import CALL_FORMAT, unseal
from handler_host.protocols.openai_responses.tools import Tool, ToolTable

FORMAT = "openai"
"""Format of OpenAI's own encrypted reasoning."""
ITEMS = frozenset(
    {
        *("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
        *("reasoning", "additional_tools"),
    }
)
"""Types of items that a chat has a place for."""
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})
STORED_ITEMS = frozenset({"item_reference"})
"""Types of items that refer to something stored at OpenAI."""


class RequestModel(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of requests and their parts."""


class InputText(RequestModel, tag_field="type", tag="input_text"):
    """Text in a message, or in the result of a tool."""

    text: str


class InputImage(RequestModel, tag_field="type", tag="input_image"):
    """An image in a message or in the result of a tool, by ``https:`` or ``data:`` URL."""

    image_url: str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    file_id: None = None


class InputFile(RequestModel, tag_field="type", tag="input_file"):
    """A document in a message or in the result of a tool."""

    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None


class InputAudio(RequestModel, tag_field="type", tag="input_audio"):
    """A recording in a message."""

    input_audio: chat.AudioData


class OutputText(RequestModel, tag_field="type", tag="output_text"):
    """Text of an earlier response, in the form of its SDK."""

    text: str
    annotations: Any = None
    logprobs: Any = None
    parsed: Any = None


class OutputRefusal(RequestModel, tag_field="type", tag="refusal"):
    """An earlier refusal of the model."""

    refusal: str


class SummaryText(RequestModel, tag_field="type", tag="summary_text"):
    """A part of the summary of an earlier reasoning."""

    text: str


class ReasoningText(RequestModel, tag_field="type", tag="reasoning_text"):
    """A part of an earlier reasoning."""

    text: str


MediaPart = InputImage | InputFile | InputAudio
Part = InputText | InputImage | InputFile | InputAudio | OutputText | OutputRefusal | SummaryText | ReasoningText


class Item(RequestModel):
    """An item of the input: a message, a tool call of the model, the result of one, reasoning, or tools."""

    type: Literal[
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "reasoning",
        "additional_tools",
    ] = "message"
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[InputText | InputImage | InputFile | OutputText] | None = None
    summary: list[SummaryText] | None = None
    encrypted_content: str | None = None
    tools: list[Tool | None] | None = None
    parsed_arguments: Any = None
    caller: Any = None


def skipped_item(item: dict[str, Any]) -> str | None:
    """Return the type of an item that a chat has no place for: calls and results of the provider's own tools."""
    kind = item.get("type", "message")
    return kind if isinstance(kind, str) and kind not in ITEMS else None


class Conversation:
    """Collects the messages of a chat, each with the path of its first item."""

    def __init__(self, tools: ToolTable) -> None:
        self.messages: list[chat.Message] = []
        self.places: list[str] = []
        self._tools = tools
        self._call_ids: set[str] = set()
        self._signature: str | None = None
        """Signature of the call that is the next item."""

    def add(self, item: Item, place: str) -> None:
        """Add an item: reasoning, text and calls of one response become one message.

        Raises ``InvalidInput`` with the path to the field.
        """
        if item.type in CALLS:
            self._add_call(item, place)
        elif item.type in OUTPUTS:
            self._append(self._result(item, place), place)
        elif item.type == "reasoning":
            self._add_reasoning(_reasoning(item), place)
        elif item.type == "message":
            self._add_message(_to_message(item, place), place)

    def finish(self) -> None:
        """Give responses that are reasoning alone an empty text."""
        for message in self.messages:
            if isinstance(message, chat.AssistantMessage) and message.reasoning and not message.tool_calls:
                message.content = "" if message.content is None and message.refusal is None else message.content

    def _append(self, message: chat.Message, place: str) -> None:
        self.messages.append(message)
        self.places.append(place)
        self._signature = None  # a client that left out the call has kept its signature

    def _response(self, place: str) -> chat.AssistantMessage:
        """Return the last message if it is a response, else a new one."""
        last = self.messages[-1] if self.messages else None
        if not isinstance(last, chat.AssistantMessage):
            last = chat.AssistantMessage()
            self._append(last, place)
        return last

    def _add_reasoning(self, part: chat.ReasoningPart, place: str) -> None:
        if part.format == CALL_FORMAT:
            self._signature = part.encrypted
            return
        response = self._response(place)
        if response.reasoning is None:
            response.reasoning = []
        response.reasoning.append(part)

    def _add_call(self, item: Item, place: str) -> None:
        field = CALLS[item.type]
        name = self._tools.function_name(item.namespace, _required(item.name, f"{place}.name"))
        text = _required(item.arguments if field == "arguments" else item.input, f"{place}.{field}")
        call = chat.ToolCall(
            id=_required(item.call_id, f"{place}.call_id"),
            function=chat.FunctionCall(name=name, arguments=text if field == "arguments" else custom_arguments(text)),
            signature=self._signature,
        )
        self._signature = None
        response = self._response(place)
        if response.tool_calls is None:
            response.tool_calls = []
        response.tool_calls.append(call)
        self._call_ids.add(call.id)

    def _add_message(self, message: chat.Message, place: str) -> None:
        last = self.messages[-1] if self.messages else None
        if (
            isinstance(message, chat.AssistantMessage)
            and isinstance(last, chat.AssistantMessage)
            and (last.content is None and last.refusal is None)
        ):
            last.content, last.refusal = message.content, message.refusal
        else:
            self._append(message, place)

    def _result(self, item: Item, place: str) -> chat.ToolMessage:
        call_id = _required(item.call_id, f"{place}.call_id")
        if call_id not in self._call_ids:
            field = f"{place}.call_id"
            raise InvalidInput(f"{field}: no earlier function_call has the call_id {call_id!r}", param=field)
        if item.output is None:
            raise InvalidInput(f"{place}.output is missing", param=f"{place}.output")
        if isinstance(item.output, str):
            return chat.ToolMessage(content=item.output, tool_call_id=call_id)
        if all(isinstance(part, InputText | OutputText) for part in item.output):
            text = "".join(part.text for part in item.output if isinstance(part, InputText | OutputText))
            return chat.ToolMessage(content=text, tool_call_id=call_id)
        parts = [
            chat.TextPart(text=part.text)
            if isinstance(part, InputText | OutputText)
            else _media(part, f"{place}.output[{number}]")
            for number, part in enumerate(item.output)
        ]
        return chat.ToolMessage(
            content=[part for part in parts if not isinstance(part, chat.AudioPart)], tool_call_id=call_id
        )


def _reasoning(item: Item) -> chat.ReasoningPart:
    texts = [part.text for part in item.summary or ()]
    if not texts and isinstance(item.content, list):
        texts = [part.text for part in item.content if isinstance(part, ReasoningText | SummaryText)]
    return unseal("\n\n".join(texts), item.encrypted_content, FORMAT, "encrypted")


def _to_message(item: Item, place: str) -> chat.Message:
    role = _required(item.role, f"{place}.role")
    content = item.content
    if content is None:
        raise InvalidInput(f"{place}.content is missing", param=f"{place}.content")
    if role == "user":
        return chat.UserMessage(content=content if isinstance(content, str) else _user_parts(content, place))
    if isinstance(content, str):
        texts: list[str] = [content]
        refusal = None
    else:
        texts, refusal = _texts(content, role, place)
    if role == "assistant":
        return chat.AssistantMessage(content="".join(texts) if texts else None, refusal=refusal)
    return chat.SystemMessage(content="".join(texts))


def _user_parts(parts: list[Part], place: str) -> list[chat.TextPart | chat.ImagePart | chat.FilePart | chat.AudioPart]:
    translated: list[chat.TextPart | chat.ImagePart | chat.FilePart | chat.AudioPart] = []
    for number, part in enumerate(parts):
        field = f"{place}.content[{number}]"
        if isinstance(part, InputText):
            translated.append(chat.TextPart(text=part.text))
        elif isinstance(part, MediaPart):
            translated.append(_media(part, field))
        else:
            raise _wrong_type("must be input_text, input_image or input_file in a message of the user", field)
    return translated


def _media(part: InputImage | InputFile | InputAudio, place: str) -> chat.ImagePart | chat.FilePart | chat.AudioPart:
    if isinstance(part, InputAudio):
        return chat.AudioPart(input_audio=part.input_audio)
    if isinstance(part, InputImage):
        url = _required(part.image_url, f"{place}.image_url")
        _check_url(url, f"{place}.image_url")
        return chat.ImagePart(image_url=chat.ImageUrl(url=url, detail=part.detail))
    file_url = part.file_url or part.file_data
    if file_url is None:
        field = f"{place}.file_data"
        raise InvalidInput(f"{field} is missing: the host stores no files, send the data", param=field)
    _check_url(file_url, f"{place}.{'file_url' if part.file_url else 'file_data'}")
    return chat.FilePart(file=chat.FileUrl(url=file_url, filename=part.filename))


def _texts(parts: list[Part], role: str, place: str) -> tuple[list[str], str | None]:
    texts: list[str] = []
    refusal: str | None = None
    for number, part in enumerate(parts):
        if isinstance(part, InputText | OutputText):
            texts.append(part.text)
        elif isinstance(part, OutputRefusal) and role == "assistant":
            refusal = (refusal or "") + part.refusal
        else:
            raise _wrong_type(f"must be text in a message of the role {role}", f"{place}.content[{number}]")
    return texts, refusal


def _check_url(url: str, place: str) -> None:
    if not url.startswith(("https://", "http://", "data:")):
        raise InvalidInput(f"{place}: must be an https: or data: URL", param=place)


def _wrong_type(text: str, place: str) -> InvalidInput:
    return InvalidInput(f"{place}.type: {text}", param=f"{place}.type")


def _required(value: str | None, place: str) -> str:
    if value is None:
        raise InvalidInput(f"{place} is missing", param=place)
    return value
