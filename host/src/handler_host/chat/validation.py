"""What no provider can make sense of in a chat request: told with the path to the field, before anybody is asked. Pure.

Providers find most of it themselves, each in words of its own and some by failing;
the SDKs before them drop it, or stumble over it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import msgspec

from handler_host.chat.types import (
    AssistantMessage,
    ChatRequest,
    ImagePart,
    JsonSchemaFormat,
    Message,
    NamedToolChoice,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from handler_host.plugin.errors import InvalidInput

SIGNATURES: dict[str, re.Pattern[bytes]] = {
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}
"""How the data of the types that all providers take begin."""
_DATA_URL = re.compile(r"data:(?P<kind>image/[\w.+-]+)(?P<options>(?:;[^;,]*)*),")

TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_BY_NAME = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
"""Words of JSON Schema whose value is an object of schemas."""
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMAS = frozenset({"additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"})


def validate_request(request: ChatRequest) -> None:
    """Raise ``InvalidInput`` for what no provider can make sense of, with the path to the field."""
    if not request.messages:
        _refuse("messages", "has to have at least one message")
    _check_order(request.messages)
    for number, message in enumerate(request.messages):
        if isinstance(message, UserMessage) and isinstance(message.content, list):
            for place, part in enumerate(message.content):
                if isinstance(part, ImagePart):
                    _check_image(part.image_url.url, f"messages[{number}].content[{place}].image_url.url")
    if request.max_tokens is not None and request.max_tokens < 1:
        _refuse("max_tokens", "has to be at least 1")
    _check_tools(request)
    if isinstance(request.response_format, JsonSchemaFormat):
        check_schema(request.response_format.json_schema.schema, "response_format.json_schema.schema")


def image_of(url: str, field: str) -> tuple[str, bytes]:
    """Return the media type and the data of an image's ``data:`` URL; raises ``InvalidInput`` if it is none."""
    found = _DATA_URL.match(url)
    if found is None:
        _refuse(field, "is no data: URL of an image (data:image/png;base64,...)")
    encoded = url[found.end() :]
    try:
        if "base64" in found["options"].split(";"):
            data = base64.b64decode("".join(encoded.split()), validate=True)
        else:
            data = unquote_to_bytes(encoded)
    except (binascii.Error, ValueError) as error:
        _refuse(field, f"its base64 cannot be read: {error}")
    if not data:
        _refuse(field, "has no data")
    return found["kind"], data


def arguments_of(call: ToolCall, place: str) -> dict[str, Any]:
    """Return the arguments of a tool call at ``place``, for providers that take an object and no text."""
    field = f"{place}.function.arguments"
    try:
        return msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        _refuse(field, f"has to be a JSON object: {error}")


def check_schema(schema: Any, place: str) -> None:
    """Raise ``InvalidInput`` for what is no JSON Schema; ``place`` is the path to it."""
    waiting = [(schema, place)]
    while waiting:
        part, at = waiting.pop()
        if not isinstance(part, Mapping):
            if not isinstance(part, bool):
                _refuse(at, "has to be a schema, which is a JSON object")
            continue
        for word, value in part.items():
            _check_word(word, value, f"{at}.{word}", schema)
            waiting += _parts(word, value, f"{at}.{word}")


def _refuse(field: str, text: str) -> NoReturn:
    raise InvalidInput(f"{field}: {text}", param=field) from None


def _check_order(messages: list[Message]) -> None:
    """See to it that the results of tool calls follow on the message that has them, each call with one."""
    called: dict[str, str] = {}
    """The calls that have no result yet, each with its place."""
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if isinstance(message, ToolMessage):
            if called.pop(message.tool_call_id, None) is None:
                _refuse(
                    f"{place}.tool_call_id",
                    f"no tool call {message.tool_call_id!r} of the assistant's message before it waits for a result",
                )
            continue
        _refuse_waiting(called)
        if isinstance(message, AssistantMessage):
            if message.content is None and message.refusal is None and not message.tool_calls:
                _refuse(f"{place}.content", "has neither content nor tool_calls")
            for index, call in enumerate(message.tool_calls or ()):
                if call.id in called:
                    _refuse(f"{place}.tool_calls[{index}].id", f"another call of the message is {call.id!r}, too")
                called[call.id] = f"{place}.tool_calls[{index}]"
    _refuse_waiting(called)


def _refuse_waiting(called: Mapping[str, str]) -> None:
    for number, place in called.items():
        _refuse(place, f"the tool call {number!r} has no result; a tool message for it has to follow")


def _check_image(url: str, field: str) -> None:
    if url.startswith(("https://", "http://")):
        return
    if not url.startswith("data:"):
        _refuse(field, "has to be an https: or a data: URL")
    kind, data = image_of(url, field)
    # Of one of these types and named as another it may pass: some providers look, and some do not.
    if kind in SIGNATURES and not any(signature.match(data) for signature in SIGNATURES.values()):
        _refuse(field, f"its data is no image; {kind} was told")


def _check_tools(request: ChatRequest) -> None:
    names: set[str] = set()
    for number, tool in enumerate(request.tools or ()):
        place = f"tools[{number}].function"
        if tool.function.name in names:
            _refuse(f"{place}.name", f"another tool is named {tool.function.name!r}, too")
        names.add(tool.function.name)
        if tool.function.parameters is not None:
            check_schema(tool.function.parameters, f"{place}.parameters")
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice) and choice.function.name not in names:
        _refuse("tool_choice.function.name", f"there is no tool {choice.function.name!r}")
    if choice == "required" and not names:
        _refuse("tool_choice", "there are no tools to choose from")


def _check_word(word: str, value: Any, place: str, root: Any) -> None:
    """See whether a word of a schema, that holds no other schema, has a value that it can have."""
    if word == "type":
        kinds = value if isinstance(value, list) and value else [value]
        if not all(isinstance(kind, str) and kind in TYPES for kind in kinds):
            _refuse(place, f"has to be one of {', '.join(sorted(TYPES))}, or a list of them")
    elif word == "required" and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        _refuse(place, "has to be a list of names")
    elif word == "enum" and not (isinstance(value, list) and value):
        _refuse(place, "has to be a list of values")
    elif word == "$ref" and not (isinstance(value, str) and _leads_somewhere(value, root)):
        _refuse(place, f"there is no {value!r} in this schema")


def _parts(word: str, value: Any, place: str) -> Iterator[tuple[Any, str]]:
    """Yield the schemas in the value of a word, each with its path."""
    if word in _BY_NAME:
        if not isinstance(value, Mapping):
            _refuse(place, "has to be an object of schemas")
        yield from ((part, f"{place}.{name}") for name, part in value.items())
    elif word in _LISTS or (word == "items" and isinstance(value, list)):
        if not isinstance(value, list) or not value:
            _refuse(place, "has to be a list of schemas")
        yield from ((part, f"{place}[{number}]") for number, part in enumerate(value))
    elif word in _SCHEMAS:
        yield value, place


def _leads_somewhere(reference: str, root: Any) -> bool:
    """Tell whether a reference has a target, as far as it is a path within the schema."""
    if not reference.startswith("#/"):
        return True
    target = root
    for step in reference.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, Mapping) and name in target:
            target = target[name]
        else:
            return False
    return True
