"""The input of OpenAI's Responses API, and its translation to messages. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput


class RequestModel(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of requests and their parts."""


class InputText(RequestModel, tag_field="type", tag="input_text"):
    """Text in a message, or in the result of a tool."""

    text: str


class InputImage(RequestModel, tag_field="type", tag="input_image"):
    """An image in a message, by ``https:`` or ``data:`` URL."""

    image_url: str
    detail: Literal["auto", "low", "high"] | None = None
    file_id: None = None


class OutputText(RequestModel, tag_field="type", tag="output_text"):
    """Text of an earlier response, in the form of its SDK."""

    text: str
    annotations: Any = None
    logprobs: Any = None
    parsed: Any = None


class OutputRefusal(RequestModel, tag_field="type", tag="refusal"):
    """An earlier refusal of the model."""

    refusal: str


Part = InputText | InputImage | OutputText | OutputRefusal


class Item(RequestModel):
    """An item of the input: a message, a tool call of the model, or the result of one."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputText] | None = None
    parsed_arguments: Any = None
    namespace: None = None
    caller: None = None


def conversation(items: list[Item]) -> tuple[list[chat.Message], list[str]]:
    """Return the messages, and the path of each; a message of several items has the path of the first.

    Raises ``InvalidInput`` with the path to the field.
    """
    messages: list[chat.Message] = []
    places: list[str] = []
    call_ids: set[str] = set()
    for number, item in enumerate(items):
        place = f"input[{number}]"
        _add(messages, call_ids, item, place)
        places += [place] * (len(messages) - len(places))
    return messages, places


def _add(messages: list[chat.Message], call_ids: set[str], item: Item, place: str) -> None:
    """Add an item to the conversation: text and calls of one response become one message.

    ``call_ids`` has the IDs of all calls so far.
    """
    last = messages[-1] if messages else None
    if item.type == "function_call":
        call = chat.ToolCall(
            id=_required(item.call_id, f"{place}.call_id"),
            function=chat.FunctionCall(
                name=_required(item.name, f"{place}.name"), arguments=_required(item.arguments, f"{place}.arguments")
            ),
        )
        if not isinstance(last, chat.AssistantMessage):
            last = chat.AssistantMessage()
            messages.append(last)
        if last.tool_calls is None:
            last.tool_calls = []
        last.tool_calls.append(call)
        call_ids.add(call.id)
        return
    if item.type == "function_call_output":
        messages.append(_to_result(call_ids, item, place))
        return
    message = _to_message(item, place)
    if (
        isinstance(message, chat.AssistantMessage)
        and isinstance(last, chat.AssistantMessage)
        and (last.content is None and last.refusal is None)
    ):
        last.content, last.refusal = message.content, message.refusal
    else:
        messages.append(message)


def _to_result(call_ids: set[str], item: Item, place: str) -> chat.ToolMessage:
    output = item.output
    if isinstance(output, list):
        output = "".join(part.text for part in output)
    call_id = _required(item.call_id, f"{place}.call_id")
    if call_id not in call_ids:
        field = f"{place}.call_id"
        raise InvalidInput(f"{field}: no earlier function_call has the call_id {call_id!r}", param=field)
    return chat.ToolMessage(content=_required(output, f"{place}.output"), tool_call_id=call_id)


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


def _user_parts(parts: list[Part], place: str) -> list[chat.TextPart | chat.ImagePart]:
    translated: list[chat.TextPart | chat.ImagePart] = []
    for number, part in enumerate(parts):
        if isinstance(part, InputImage):
            _check_url(part.image_url, f"{place}.content[{number}].image_url")
            translated.append(chat.ImagePart(image_url=chat.ImageUrl(url=part.image_url, detail=part.detail)))
        elif isinstance(part, InputText):
            translated.append(chat.TextPart(text=part.text))
        else:
            raise _wrong_type(
                "must be input_text or input_image in a message of the user", f"{place}.content[{number}]"
            )
    return translated


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
