"""The input of OpenAI's Responses API: its items, and the conversation that they make. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput


class Sent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of what clients send."""


class InputText(Sent, tag_field="type", tag="input_text"):
    """Text in a message, or in the result of a tool."""

    text: str


class InputImage(Sent, tag_field="type", tag="input_image"):
    """An image in a message, by ``https:`` or ``data:`` URL."""

    image_url: str
    detail: Literal["auto", "low", "high"] | None = None
    file_id: None = None


class OutputText(Sent, tag_field="type", tag="output_text"):
    """Text that the model said earlier, as its SDK has given it."""

    text: str
    annotations: Any = None
    logprobs: Any = None
    parsed: Any = None


class OutputRefusal(Sent, tag_field="type", tag="refusal"):
    """A refusal of the model's, earlier."""

    refusal: str


Part = InputText | InputImage | OutputText | OutputRefusal


class Item(Sent):
    """One item of the input: a message, a tool call of the model's, or the result of one."""

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
    """Return the messages that the items make, and the place of each (of several items the first one's).

    Raises ``InvalidInput`` with the path to what is wrong.
    """
    messages: list[chat.Message] = []
    places: list[str] = []
    for number, item in enumerate(items):
        place = f"input[{number}]"
        _add(messages, item, place)
        places += [place] * (len(messages) - len(places))
    return messages, places


def _add(messages: list[chat.Message], item: Item, place: str) -> None:
    """Add an item to the conversation: what the model said and called in one turn becomes one message."""
    last = messages[-1] if messages else None
    if item.type == "function_call":
        call = chat.ToolCall(
            id=_needed(item.call_id, f"{place}.call_id"),
            function=chat.FunctionCall(
                name=_needed(item.name, f"{place}.name"), arguments=_needed(item.arguments, f"{place}.arguments")
            ),
        )
        if not isinstance(last, chat.AssistantMessage):
            last = chat.AssistantMessage()
            messages.append(last)
        last.tool_calls = [*(last.tool_calls or ()), call]
        return
    if item.type == "function_call_output":
        messages.append(_to_result(messages, item, place))
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


def _to_result(messages: list[chat.Message], item: Item, place: str) -> chat.ToolMessage:
    output = item.output
    if isinstance(output, list):
        output = "".join(part.text for part in output)
    call_id = _needed(item.call_id, f"{place}.call_id")
    made = [message.tool_calls or () for message in messages if isinstance(message, chat.AssistantMessage)]
    if not any(call.id == call_id for calls in made for call in calls):
        field = f"{place}.call_id"
        raise InvalidInput(f"{field}: no function_call before it has the call_id {call_id!r}", param=field)
    return chat.ToolMessage(content=_needed(output, f"{place}.output"), tool_call_id=call_id)


def _to_message(item: Item, place: str) -> chat.Message:
    role = _needed(item.role, f"{place}.role")
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
    made: list[chat.TextPart | chat.ImagePart] = []
    for number, part in enumerate(parts):
        if isinstance(part, InputImage):
            _check_url(part.image_url, f"{place}.content[{number}].image_url")
            made.append(chat.ImagePart(image_url=chat.ImageUrl(url=part.image_url, detail=part.detail)))
        elif isinstance(part, InputText):
            made.append(chat.TextPart(text=part.text))
        else:
            raise _misplaced("a user's message takes input_text and input_image", f"{place}.content[{number}]")
    return made


def _texts(parts: list[Part], role: str, place: str) -> tuple[list[str], str | None]:
    texts: list[str] = []
    refusal: str | None = None
    for number, part in enumerate(parts):
        if isinstance(part, InputText | OutputText):
            texts.append(part.text)
        elif isinstance(part, OutputRefusal) and role == "assistant":
            refusal = (refusal or "") + part.refusal
        else:
            raise _misplaced(f"the {role}'s message takes text only", f"{place}.content[{number}]")
    return texts, refusal


def _check_url(url: str, place: str) -> None:
    if not url.startswith(("https://", "http://", "data:")):
        raise InvalidInput(f"{place}: has to be an https: or a data: URL", param=place)


def _misplaced(what: str, place: str) -> InvalidInput:
    return InvalidInput(f"{place}.type: {what}", param=f"{place}.type")


def _needed(value: str | None, place: str) -> str:
    if value is None:
        raise InvalidInput(f"{place} is missing", param=place)
    return value
