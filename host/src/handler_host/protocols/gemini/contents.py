"""The contents of a Gemini request, and their translation to messages. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.gemini import FORMAT
from handler_host.protocols.opaque import unseal_base64, unseal_parts
from handler_host.protocols.unanswered_calls import OpenCalls

_GOOGLES_FILES = "https://generativelanguage.googleapis.com/"


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of requests and their parts."""


class Blob(_Request):
    """Data in the request itself."""

    mime_type: str
    data: str
    """Base64, in either alphabet."""
    display_name: str | None = None


class FileData(_Request):
    """Data at a URL."""

    file_uri: str
    mime_type: str | None = None
    display_name: str | None = None


class FunctionCall(_Request):
    """A function call that the model made."""

    name: str
    args: dict[str, Any] | None = None
    id: str | None = None


class ResultPart(_Request):
    """A part of the result of a function call."""

    inline_data: Blob | None = None
    file_data: FileData | None = None


class FunctionResponse(_Request):
    """The result of a function call."""

    name: str
    response: dict[str, Any] | None = None
    id: str | None = None
    parts: list[ResultPart] | None = None
    """Images and documents of the result."""


class Part(_Request):
    """A part of a content, with one of the first five fields."""

    text: str | None = None
    inline_data: Blob | None = None
    file_data: FileData | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    """Opaque data of the model that made the part; other models cannot use it."""


class Content(_Request):
    """One message."""

    parts: list[Part] = []
    role: Literal["user", "model", "function", "system", ""] | None = None


def system_text(content: Content) -> str:
    """Return the text of a system instruction; its role has no meaning."""
    for number, part in enumerate(content.parts):
        if part.text is None:
            field = f"systemInstruction.parts[{number}]"
            raise InvalidInput(f"{field}: must be text", param=field)
    return "".join(part.text or "" for part in content.parts)


def messages(contents: list[Content]) -> tuple[list[chat.Message], list[str]]:
    """Return the messages, and the path of each; raises ``InvalidInput`` with the path to the field."""
    translated: list[chat.Message] = []
    places: list[str] = []
    calls = OpenCalls()
    for number, content in enumerate(contents):
        place = f"contents[{number}]"
        if content.role == "system":
            raise InvalidInput(
                f"{place}.role: unsupported here; send instructions as systemInstruction", param=f"{place}.role"
            )
        if not content.parts and content.role != "model":
            raise InvalidInput(f"{place}.parts: must have at least one part", param=f"{place}.parts")
        if content.role == "model":
            translated.append(_assistant_message(content, place, calls))
        else:
            translated += _user_messages(content, place, calls)
        places += [place] * (len(translated) - len(places))
    return translated, places


def _assistant_message(content: Content, place: str, calls: OpenCalls) -> chat.AssistantMessage:
    text: list[str] = []
    tool_calls: list[chat.ToolCall] = []
    reasoning: list[chat.ReasoningPart] = []
    for number, part in enumerate(content.parts):
        if part.thought:
            reasoning.append(unseal_base64(part.text or "", part.thought_signature, FORMAT, "signature"))
        elif part.function_call is not None:
            call = part.function_call
            arguments = msgspec.json.encode(call.args or {}).decode()
            function = chat.FunctionCall(name=call.name, arguments=arguments)
            call_id = calls.add(call.id, call.name)
            sealed = unseal_parts(part.thought_signature) if part.thought_signature else None
            signature = part.thought_signature if sealed is None else None
            tool_calls.append(chat.ToolCall(id=call_id, function=function, signature=signature))
            if sealed is not None and not any(part.signature or part.encrypted for part in reasoning):
                reasoning = sealed  # the client has dropped the thoughts
        elif part.text is not None:
            text.append(part.text)
            if part.thought_signature:
                reasoning.append(unseal_base64("", part.thought_signature, FORMAT, "signature"))
        elif part.inline_data is not None or part.file_data is not None:
            continue  # an image that a model made: an earlier response has no place for it
        else:
            field = f"{place}.parts[{number}]"
            raise InvalidInput(f"{field}: must be text or a functionCall in a content of the model", param=field)
    return chat.AssistantMessage(
        content="".join(text) if text or not tool_calls else None,
        tool_calls=tool_calls or None,
        reasoning=reasoning or None,
    )


def _user_messages(content: Content, place: str, calls: OpenCalls) -> list[chat.Message]:
    results: list[chat.Message] = []
    answers: dict[str | None, FunctionResponse] = {}
    parts: list[chat.TextPart | chat.ImagePart | chat.FilePart | chat.AudioPart] = []
    for number, part in enumerate(content.parts):
        field = f"{place}.parts[{number}]"
        if part.function_response is not None:
            response = part.function_response
            call_id = calls.close(response.id, response.name)  # many clients leave out the ID
            if call_id is None and response.id is not None and answers.get(response.id) == response:
                continue  # Gemini CLI writes each result of a resumed session twice
            results.append(_result(response, f"{field}.functionResponse", call_id))
            answers[response.id] = response
        elif part.text is not None:
            parts.append(chat.TextPart(text=part.text))
        else:
            parts.append(_media(part, field))
    if not parts:
        return results
    single = parts[0] if len(parts) == 1 else None
    return [*results, chat.UserMessage(content=single.text if isinstance(single, chat.TextPart) else parts)]


def _result(response: FunctionResponse, place: str, call_id: str | None) -> chat.ToolMessage:
    if call_id is None:
        raise InvalidInput(f"{place}: no functionCall of {response.name!r} without a response", param=place)
    text = msgspec.json.encode(response.response or {}).decode()
    if not response.parts:
        return chat.ToolMessage(content=text, tool_call_id=call_id)
    media = [_media(part, f"{place}.parts[{number}]") for number, part in enumerate(response.parts)]
    parts = [part for part in media if not isinstance(part, chat.AudioPart)]
    return chat.ToolMessage(content=[chat.TextPart(text=text), *parts], tool_call_id=call_id)


def _media(part: Part | ResultPart, field: str) -> chat.ImagePart | chat.FilePart | chat.AudioPart:
    """Return the image, the document or the recording of a part."""
    if part.inline_data is not None:
        kind, data = part.inline_data.mime_type, _data(part.inline_data, f"{field}.inlineData.data")
        if kind.startswith("audio/"):
            return chat.AudioPart(input_audio=chat.AudioData(data=data, format=_audio_format(kind)))
        url, name = f"data:{kind};base64,{data}", part.inline_data.display_name
    elif part.file_data is not None:
        kind, url, name = part.file_data.mime_type or "image/*", part.file_data.file_uri, part.file_data.display_name
        field += ".fileData.fileUri"
        if not url.startswith(("https://", "http://")):
            raise InvalidInput(f"{field}: must be an https: URL", param=field)
        if url.startswith(_GOOGLES_FILES):
            raise InvalidInput(f"{field}: the host stores no files; send inlineData", param=field)
    else:
        raise InvalidInput(
            f"{field}: must have text, inlineData, fileData, functionCall or functionResponse", param=field
        )
    if kind.startswith("image/"):
        return chat.ImagePart(image_url=chat.ImageUrl(url=url))
    return chat.FilePart(file=chat.FileUrl(url=url, filename=name))


def _data(blob: Blob, field: str) -> str:
    """Return the base64 of data, in the usual alphabet; raises ``InvalidInput``."""
    data = blob.data.replace("-", "+").replace("_", "/")
    try:
        decoded = base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{field}: invalid base64: {error}", param=field) from None
    if not decoded:
        raise InvalidInput(f"{field}: empty", param=field)
    return base64.b64encode(decoded).decode()


def _audio_format(kind: str) -> str:
    """Return OpenAI's name for the format of a recording: the subtype, without ``x-``."""
    name = kind.partition("/")[2].partition(";")[0].removeprefix("x-")
    return {"mpeg": "mp3", "wave": "wav"}.get(name, name)
