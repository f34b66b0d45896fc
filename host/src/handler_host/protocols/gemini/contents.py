"""The contents of a Gemini request, and the messages that they are. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput


class _Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of what clients send."""


class Blob(_Request):
    """Data in the request itself."""

    mime_type: str
    data: str
    """Base64, in either of its alphabets."""
    display_name: str | None = None


class FileData(_Request):
    """Data somewhere else."""

    file_uri: str
    mime_type: str | None = None
    display_name: str | None = None


class FunctionCall(_Request):
    """A call that the model made."""

    name: str
    args: dict[str, Any] | None = None
    id: str | None = None


class FunctionResponse(_Request):
    """What the function returned."""

    name: str
    response: dict[str, Any] | None = None
    id: str | None = None


class Part(_Request):
    """A part of a content: one of the first five fields."""

    text: str | None = None
    inline_data: Blob | None = None
    file_data: FileData | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    """Of the model that made it: no handler can use another one's."""


class Content(_Request):
    """One turn."""

    parts: list[Part] = []
    role: Literal["user", "model", "function", "system", ""] | None = None


def text_of_system(content: Content) -> str:
    """Return the text of a system instruction, whose role is of no meaning."""
    for number, part in enumerate(content.parts):
        if part.text is None:
            field = f"systemInstruction.parts[{number}]"
            raise InvalidInput(f"{field}: has to be text", param=field)
    return "".join(part.text or "" for part in content.parts)


def messages(contents: list[Content]) -> tuple[list[chat.Message], list[str]]:
    """Return the messages, and the place of each; raises ``InvalidInput`` with the path to what is wrong."""
    made: list[chat.Message] = []
    places: list[str] = []
    calls = _Calls()
    for number, content in enumerate(contents):
        place = f"contents[{number}]"
        if content.role == "system":
            raise InvalidInput(f"{place}.role: instructions belong into systemInstruction", param=f"{place}.role")
        if not content.parts and content.role != "model":
            raise InvalidInput(f"{place}.parts: has to have at least one part", param=f"{place}.parts")
        if content.role == "model":
            made.append(_said(content, place, calls))
        else:
            made += _asked(content, place, calls)
        places += [place] * (len(made) - len(places))
    return made, places


class _Calls:
    """The calls that have no response yet: Google's clients name the function, and often no id."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, str]] = []
        self._made = 0

    def call(self, call: FunctionCall) -> str:
        """Note a call; return its id."""
        self._made += 1
        number = call.id or f"call_{self._made}"
        self._waiting.append((call.name, number))
        return number

    def answered(self, response: FunctionResponse) -> str | None:
        """Return the id of the call that a response belongs to, the earliest one of its function, or None."""
        for waiting in self._waiting:
            if response.id == waiting[1] if response.id else response.name == waiting[0]:
                self._waiting.remove(waiting)
                return waiting[1]
        return None


def _said(content: Content, place: str, calls: _Calls) -> chat.AssistantMessage:
    text: list[str] = []
    made: list[chat.ToolCall] = []
    for number, part in enumerate(content.parts):
        if part.thought:
            continue
        if part.function_call is not None:
            call = part.function_call
            arguments = msgspec.json.encode(call.args or {}).decode()
            made.append(
                chat.ToolCall(id=calls.call(call), function=chat.FunctionCall(name=call.name, arguments=arguments))
            )
        elif part.text is not None:
            text.append(part.text)
        else:
            field = f"{place}.parts[{number}]"
            raise InvalidInput(f"{field}: of the model can be text or a functionCall only", param=field)
    return chat.AssistantMessage(content="".join(text) if text or not made else None, tool_calls=made or None)


def _asked(content: Content, place: str, calls: _Calls) -> list[chat.Message]:
    results: list[chat.Message] = []
    parts: list[chat.TextPart | chat.ImagePart] = []
    for number, part in enumerate(content.parts):
        field = f"{place}.parts[{number}]"
        if part.function_response is not None:
            answered = calls.answered(part.function_response)
            if answered is None:
                raise InvalidInput(
                    f"{field}.functionResponse: no functionCall of {part.function_response.name!r} waits for one",
                    param=f"{field}.functionResponse",
                )
            result = msgspec.json.encode(part.function_response.response or {}).decode()
            results.append(chat.ToolMessage(content=result, tool_call_id=answered))
        elif part.text is not None:
            parts.append(chat.TextPart(text=part.text))
        else:
            parts.append(chat.ImagePart(image_url=chat.ImageUrl(url=_url(part, field))))
    if not parts:
        return results
    only = parts[0] if len(parts) == 1 else None
    return [*results, chat.UserMessage(content=only.text if isinstance(only, chat.TextPart) else parts)]


def _url(part: Part, field: str) -> str:
    """Return the URL of an image."""
    if part.inline_data is not None:
        kind = _image(part.inline_data.mime_type, f"{field}.inlineData.mimeType")
        field += ".inlineData.data"
        data = part.inline_data.data.replace("-", "+").replace("_", "/")
        try:
            decoded = base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidInput(f"{field}: cannot be read as base64: {error}", param=field) from None
        if not decoded:
            raise InvalidInput(f"{field}: is empty", param=field)
        return f"data:{kind};base64,{base64.b64encode(decoded).decode()}"
    if part.file_data is not None:
        _image(part.file_data.mime_type or "image/*", f"{field}.fileData.mimeType")
        uri, field = part.file_data.file_uri, f"{field}.fileData.fileUri"
        if not uri.startswith(("https://", "http://")):
            raise InvalidInput(f"{field}: has to be an https: URL", param=field)
        return uri
    raise InvalidInput(
        f"{field}: has to have text, inlineData, fileData, functionCall or functionResponse", param=field
    )


def _image(kind: str, field: str) -> str:
    if not kind.startswith("image/"):
        raise InvalidInput(f"{field}: handlers take images only, and not {kind!r}", param=field)
    return kind
