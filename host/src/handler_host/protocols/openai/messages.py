"""Messages of OpenAI's chat completions, and their translation to those of a chat. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.custom_tools import custom_arguments
from handler_host.protocols.openai.reasoning_details import reasoning_parts


class RequestModel(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of requests and their parts."""


class ImageUrl(RequestModel):
    """An image by ``https:`` or ``data:`` URL."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(RequestModel, tag_field="type", tag="image_url"):
    """An image in a message; some clients send the URL alone."""

    image_url: ImageUrl | str
    cache_control: chat.CacheControl | None = None


class FileData(RequestModel):
    """The data of a document in a message."""

    file_data: str | None = None
    filename: str | None = None


class FilePart(RequestModel, tag_field="type", tag="file"):
    """A document in a message."""

    file: FileData
    cache_control: chat.CacheControl | None = None


class RefusalPart(RequestModel, tag_field="type", tag="refusal"):
    """A refusal in an earlier response."""

    refusal: str


Part = chat.TextPart | ImagePart | FilePart | chat.AudioPart


class SystemMessage(RequestModel, tag_field="role", tag="system"):
    """Instructions."""

    content: str | list[chat.TextPart]
    name: str | None = None
    cache_control: chat.CacheControl | None = None


class DeveloperMessage(SystemMessage, tag_field="role", tag="developer", kw_only=True):
    """Instructions, under the newer role."""


class UserMessage(RequestModel, tag_field="role", tag="user"):
    """Text, images, documents and recordings of the user."""

    content: str | list[Part]
    name: str | None = None
    cache_control: chat.CacheControl | None = None


class Function(RequestModel):
    """The function of a call; ``arguments`` is a JSON document, which some clients send as an object."""

    name: str
    arguments: str | dict[str, Any]


class CustomInput(RequestModel):
    """The call of a tool that takes free text."""

    name: str
    input: str


class ToolCall(RequestModel):
    """A tool call that the model made."""

    id: str
    function: Function | None = None
    custom: CustomInput | None = None
    type: Literal["function", "custom"] | None = None
    extra_content: Any = None
    """Gemini's thought signature, as Google's own server for OpenAI clients has it."""
    cache_control: chat.CacheControl | None = None


class EchoedMessage(RequestModel, tag_field="role", tag="assistant"):
    """A response that the client sends back with the whole history, in the form of its SDK."""

    content: str | list[chat.TextPart | RefusalPart] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[dict[str, Any]] | None = None
    """Signed and encrypted reasoning, as OpenRouter has it; used in place of ``reasoning_content``."""
    cache_control: chat.CacheControl | None = None
    annotations: Any = None
    audio: None = None
    function_call: None = None


class ToolMessage(RequestModel, tag_field="role", tag="tool"):
    """The result of a tool call."""

    content: str | list[chat.TextPart | ImagePart | FilePart]
    tool_call_id: str
    cache_control: chat.CacheControl | None = None


Message = SystemMessage | DeveloperMessage | UserMessage | EchoedMessage | ToolMessage


def to_chat_message(message: Message, place: str) -> chat.Message:
    """Return a message for handlers; raises ``InvalidInput`` with the path to the field."""
    match message:
        case SystemMessage():
            return chat.SystemMessage(content=message.content, name=message.name, cache_control=message.cache_control)
        case UserMessage():
            content = message.content if isinstance(message.content, str) else _parts(message.content, place)
            return chat.UserMessage(content=content, name=message.name, cache_control=message.cache_control)
        case ToolMessage():
            return chat.ToolMessage(
                content=message.content if isinstance(message.content, str) else _parts(message.content, place),
                tool_call_id=message.tool_call_id,
                cache_control=message.cache_control,
            )
        case EchoedMessage():
            return _response(message, place)


def _response(message: EchoedMessage, place: str) -> chat.AssistantMessage:
    content: str | list[chat.TextPart] | None
    refusal = message.refusal
    if isinstance(message.content, list):
        refusals = [part.refusal for part in message.content if isinstance(part, RefusalPart)]
        refusal = refusal or "".join(refusals) or None
        texts = [part for part in message.content if isinstance(part, chat.TextPart)]
        content = texts or (None if refusals else texts)
    else:
        content = message.content
    calls = [_call(call, f"{place}.tool_calls[{number}]") for number, call in enumerate(message.tool_calls or ())]
    reasoning = list(reasoning_parts(message.reasoning_details or ()))
    if message.reasoning_content and not reasoning:
        reasoning = [chat.ReasoningPart(text=message.reasoning_content)]
    return chat.AssistantMessage(
        content=content,
        refusal=refusal,
        tool_calls=calls or None,
        name=message.name,
        reasoning=reasoning or None,
        cache_control=message.cache_control,
    )


def _call(call: ToolCall, place: str) -> chat.ToolCall:
    if call.custom is not None:
        name, arguments = call.custom.name, custom_arguments(call.custom.input)
    elif call.function is not None:
        name, given = call.function.name, call.function.arguments
        arguments = given if isinstance(given, str) else msgspec.json.encode(given).decode()
    else:
        raise InvalidInput(f"{place}.function is missing", param=f"{place}.function")
    return chat.ToolCall(
        id=call.id,
        function=chat.FunctionCall(name=name, arguments=arguments),
        signature=_signature(call.extra_content),
        cache_control=call.cache_control,
    )


def _signature(extra: Any) -> str | None:
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else None


def _parts(parts: list[Any], place: str) -> list[Any]:
    return [_part(part, f"{place}.content[{number}]") for number, part in enumerate(parts)]


def _part(part: Part, place: str) -> Any:
    if isinstance(part, ImagePart):
        image = part.image_url
        url = chat.ImageUrl(url=image) if isinstance(image, str) else chat.ImageUrl(url=image.url, detail=image.detail)
        return chat.ImagePart(image_url=url, cache_control=part.cache_control)
    if isinstance(part, FilePart):
        if part.file.file_data is None:
            field = f"{place}.file.file_data"
            raise InvalidInput(f"{field} is missing: the host stores no files, send the data", param=field)
        file = chat.FileUrl(url=part.file.file_data, filename=part.file.filename)
        return chat.FilePart(file=file, cache_control=part.cache_control)
    return part
