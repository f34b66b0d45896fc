"""The contents of a Gemini request, and their translation to messages. Pure."""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict, deque
from typing import Any, Literal

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput


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


class FunctionResponse(_Request):
    """The result of a function call."""

    name: str
    response: dict[str, Any] | None = None
    id: str | None = None


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
    calls = _OpenCalls()
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


class _OpenCalls:
    """Function calls without a response: Google's clients name the function, and often leave out the ID."""

    def __init__(self) -> None:
        self._by_id: dict[str, deque[_OpenCall]] = defaultdict(deque)
        self._by_name: dict[str, deque[_OpenCall]] = defaultdict(deque)
        self._count = 0

    def add(self, call: FunctionCall) -> str:
        """Add a call and return its ID, which is a new one if the call has none."""
        self._count += 1
        call_id = call.id or f"call_{self._count}"
        open_call = _OpenCall(call_id)
        self._by_id[call_id].append(open_call)
        self._by_name[call.name].append(open_call)
        return call_id

    def close(self, response: FunctionResponse) -> str | None:
        """Remove the call that a response belongs to, the earliest of its function; return its ID, or None."""
        calls = self._by_id.get(response.id) if response.id else self._by_name.get(response.name)
        while calls:
            call = calls.popleft()
            if not call.has_response:
                call.has_response = True
                return call.id
        return None


class _OpenCall:
    """A call in the queue of its ID and in the queue of its name; a response takes it from one of them."""

    __slots__ = ("has_response", "id")

    def __init__(self, call_id: str) -> None:
        self.id = call_id
        self.has_response = False


def _assistant_message(content: Content, place: str, calls: _OpenCalls) -> chat.AssistantMessage:
    text: list[str] = []
    tool_calls: list[chat.ToolCall] = []
    for number, part in enumerate(content.parts):
        if part.thought:
            continue
        if part.function_call is not None:
            call = part.function_call
            arguments = msgspec.json.encode(call.args or {}).decode()
            tool_calls.append(
                chat.ToolCall(id=calls.add(call), function=chat.FunctionCall(name=call.name, arguments=arguments))
            )
        elif part.text is not None:
            text.append(part.text)
        else:
            field = f"{place}.parts[{number}]"
            raise InvalidInput(f"{field}: must be text or a functionCall in a content of the model", param=field)
    return chat.AssistantMessage(
        content="".join(text) if text or not tool_calls else None, tool_calls=tool_calls or None
    )


def _user_messages(content: Content, place: str, calls: _OpenCalls) -> list[chat.Message]:
    results: list[chat.Message] = []
    parts: list[chat.TextPart | chat.ImagePart] = []
    for number, part in enumerate(content.parts):
        field = f"{place}.parts[{number}]"
        if part.function_response is not None:
            call_id = calls.close(part.function_response)
            if call_id is None:
                raise InvalidInput(
                    f"{field}.functionResponse: no functionCall of {part.function_response.name!r} without a response",
                    param=f"{field}.functionResponse",
                )
            result = msgspec.json.encode(part.function_response.response or {}).decode()
            results.append(chat.ToolMessage(content=result, tool_call_id=call_id))
        elif part.text is not None:
            parts.append(chat.TextPart(text=part.text))
        else:
            parts.append(chat.ImagePart(image_url=chat.ImageUrl(url=_url(part, field))))
    if not parts:
        return results
    single = parts[0] if len(parts) == 1 else None
    return [*results, chat.UserMessage(content=single.text if isinstance(single, chat.TextPart) else parts)]


def _url(part: Part, field: str) -> str:
    """Return the URL of an image."""
    if part.inline_data is not None:
        kind = _image(part.inline_data.mime_type, f"{field}.inlineData.mimeType")
        field += ".inlineData.data"
        data = part.inline_data.data.replace("-", "+").replace("_", "/")
        try:
            decoded = base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidInput(f"{field}: invalid base64: {error}", param=field) from None
        if not decoded:
            raise InvalidInput(f"{field}: empty", param=field)
        return f"data:{kind};base64,{base64.b64encode(decoded).decode()}"
    if part.file_data is not None:
        _image(part.file_data.mime_type or "image/*", f"{field}.fileData.mimeType")
        uri, field = part.file_data.file_uri, f"{field}.fileData.fileUri"
        if not uri.startswith(("https://", "http://")):
            raise InvalidInput(f"{field}: must be an https: URL", param=field)
        return uri
    raise InvalidInput(f"{field}: must have text, inlineData, fileData, functionCall or functionResponse", param=field)


def _image(kind: str, field: str) -> str:
    if not kind.startswith("image/"):
        raise InvalidInput(f"{field}: {kind!r} is unsupported; handlers take images only", param=field)
    return kind
