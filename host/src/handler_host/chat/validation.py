"""Validation of chat requests before any provider is called. Pure.

Providers find most of these mistakes themselves, each with its own message and some by failing; the SDKs drop some
fields, or raise. Here each mistake is an error with the path to the field.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from handler_host._internal.field_path import FieldPath, shorten
from handler_host.chat.types import (
    AssistantMessage,
    ChatRequest,
    FilePart,
    ImagePart,
    JsonSchemaFormat,
    Message,
    NamedToolChoice,
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
"""First bytes of the image types that all providers take."""
_OPTIONS = r"(?P<options>(?:;[^;,]*+)*+),"  # possessive: it keeps no way back for each of a million options
_IMAGE_URL = re.compile(r"data:(?P<kind>image/[\w.+-]+)" + _OPTIONS)
_DATA_URL = re.compile(r"data:(?P<kind>[\w.+-]+/[\w.+-]+)" + _OPTIONS)

TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_SCHEMAS_BY_NAME = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
"""Keywords of JSON Schema whose value is an object of schemas."""
_SCHEMA_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
MAX_CHOICES = 128
"""Most responses to one request, as of OpenAI."""
MAX_SCHEMAS = 10_000
"""Most subschemas of one schema; OpenAI takes 5,000 properties."""
MAX_SCHEMA_DEPTH = 100
"""Most subschemas inside of each other."""
MAX_REFERENCE_LENGTH = 1000
MAX_INDEX_DIGITS = 9
"""Most digits of a position in a list: Python refuses to read a number of more than 4,300."""
_SCHEMAS = frozenset({"additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"})


def validate_request(request: ChatRequest) -> None:
    """Raise ``InvalidInput``, with the path to the field, for a request that no provider can process."""
    if not request.messages:
        _refuse("messages", "must have at least one message")
    _check_order(request.messages)
    for number, message in enumerate(request.messages):
        if isinstance(message, UserMessage | ToolMessage) and isinstance(message.content, list):
            for index, part in enumerate(message.content):
                if isinstance(part, ImagePart):
                    _check_image(part.image_url.url, f"messages[{number}].content[{index}].image_url.url")
                elif isinstance(part, FilePart):
                    _check_file(part.file.url, f"messages[{number}].content[{index}].file.url")
    if request.max_tokens is not None and request.max_tokens < 1:
        _refuse("max_tokens", "must be at least 1")
    if request.n is not None and not 1 <= request.n <= MAX_CHOICES:
        _refuse("n", f"must be from 1 to {MAX_CHOICES}")
    _check_tools(request)
    if isinstance(request.response_format, JsonSchemaFormat):
        check_schema(request.response_format.json_schema.schema, "response_format.json_schema.schema")


def tidy_schemas(request: ChatRequest) -> None:
    """Mend slips in the schemas of tools and of the response: types in capitals or null, arrays without items."""
    pending: list[Any] = [
        tool.function.parameters for tool in request.tools or () if tool.function.parameters is not None
    ]
    for parameters in pending:
        if parameters.get("type") is None:
            parameters["type"] = "object"
    if isinstance(request.response_format, JsonSchemaFormat):
        pending.append(request.response_format.json_schema.schema)
    while pending:
        part = pending.pop()
        if not isinstance(part, dict):
            continue
        _tidy(part)
        for keyword, value in part.items():
            if keyword in _SCHEMAS_BY_NAME and isinstance(value, dict):
                pending += value.values()
            elif isinstance(value, list) and (keyword in _SCHEMA_LISTS or keyword == "items"):
                pending += value
            elif keyword in _SCHEMAS:
                pending.append(value)


def _tidy(schema: dict[str, Any]) -> None:
    kind = schema.get("type", "")
    if isinstance(kind, str) and kind.lower() in TYPES:
        schema["type"] = kind.lower()
    elif kind is None or kind == "any":
        del schema["type"]
    if "required" in schema and (schema["required"] is None or isinstance(schema["required"], bool)):
        del schema["required"]
    if schema.get("enum") == []:
        del schema["enum"]
    if "properties" in schema and schema["properties"] is None:
        del schema["properties"]
    if schema.get("type") == "array":
        schema.setdefault("items", {})  # OpenAI refuses arrays without


def image_of(url: str, field: str) -> tuple[str, bytes]:
    """Return media type and data of an image's ``data:`` URL; raises ``InvalidInput`` for any other URL."""
    match = _IMAGE_URL.match(url)
    if match is None:
        _refuse(field, "not a data: URL of an image (data:image/png;base64,...)")
    return _decode(url, match, field, "image")


def data_of(url: str, field: str) -> tuple[str, bytes]:
    """Return media type and data of a document's ``data:`` URL; raises ``InvalidInput`` for any other URL."""
    match = _DATA_URL.match(url)
    if match is None:
        _refuse(field, "not a data: URL of a document (data:application/pdf;base64,...)")
    return _decode(url, match, field, "document")


def _decode(url: str, match: re.Match[str], field: str, noun: str) -> tuple[str, bytes]:
    encoded = url[match.end() :]
    try:
        if "base64" in match["options"].split(";"):
            data = base64.b64decode("".join(encoded.split()), validate=True)
        else:
            data = unquote_to_bytes(encoded)
    except (binascii.Error, ValueError) as error:
        _refuse(field, f"invalid base64: {error}")
    if not data:
        _refuse(field, f"the {noun} has no data")
    return match["kind"], data


def check_schema(schema: Any, place: str) -> None:
    """Raise ``InvalidInput`` for an invalid or too large JSON Schema; ``place`` is the path to it."""
    pending = [(schema, FieldPath(None, place), 0)]
    count = 0
    while pending:
        part, path, depth = pending.pop()
        count += 1
        if not isinstance(part, Mapping):
            if not isinstance(part, bool):
                _refuse(path, "must be a JSON Schema, which is an object")
            continue
        if depth > MAX_SCHEMA_DEPTH:
            _refuse(path, f"nested too deeply; a schema may have {MAX_SCHEMA_DEPTH} levels")
        for keyword, value in part.items():
            inside = FieldPath(path, keyword)
            _check_keyword(keyword, value, inside, schema)
            for subschema, subpath in _subschemas(keyword, value, inside):
                pending.append((subschema, subpath, depth + 1))
                if count + len(pending) > MAX_SCHEMAS:
                    _refuse(place, f"too large; a schema may have {MAX_SCHEMAS} subschemas")


def _refuse(field: str | FieldPath, text: str) -> NoReturn:
    raise InvalidInput(f"{field}: {text}", param=str(field)) from None


def _check_order(messages: list[Message]) -> None:
    """Raise ``InvalidInput`` unless each tool call's result follows the message of the call, before the next one."""
    open_calls: dict[str, str] = {}
    """Path of each call without a result."""
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if isinstance(message, ToolMessage):
            if open_calls.pop(message.tool_call_id, None) is None:
                _refuse(
                    f"{place}.tool_call_id",
                    f"no tool call {message.tool_call_id!r} without a result in the assistant message before",
                )
            continue
        _refuse_open_calls(open_calls)
        if isinstance(message, AssistantMessage):
            if message.content is None and message.refusal is None and not message.tool_calls:
                _refuse(f"{place}.content", "the message has neither content nor tool_calls")
            for index, call in enumerate(message.tool_calls or ()):
                if call.id in open_calls:
                    _refuse(f"{place}.tool_calls[{index}].id", f"the message has another call with the ID {call.id!r}")
                open_calls[call.id] = f"{place}.tool_calls[{index}]"
    _refuse_open_calls(open_calls)


def _refuse_open_calls(open_calls: Mapping[str, str]) -> None:
    for call_id, place in open_calls.items():
        _refuse(place, f"the tool call {call_id!r} has no result; a tool message with its ID must follow")


def _is_remote(url: str, field: str) -> bool:
    """Return whether the provider fetches the URL; raises ``InvalidInput`` if it is not a ``data:`` URL either."""
    if url.startswith(("https://", "http://")):
        return True
    if not url.startswith("data:"):
        _refuse(field, "must be an https: or data: URL")
    return False


def _check_image(url: str, field: str) -> None:
    if _is_remote(url, field):
        return
    kind, data = image_of(url, field)
    # An image of another one of these types passes: some providers check the declared type, and some do not.
    if kind in SIGNATURES and not any(signature.match(data) for signature in SIGNATURES.values()):
        _refuse(field, f"not a valid image (declared as {kind})")


def _check_file(url: str, field: str) -> None:
    if not _is_remote(url, field):
        data_of(url, field)


def _check_tools(request: ChatRequest) -> None:
    names: set[str] = set()
    for number, tool in enumerate(request.tools or ()):
        place = f"tools[{number}].function"
        if tool.function.name in names:
            _refuse(f"{place}.name", f"another tool has the name {tool.function.name!r}")
        names.add(tool.function.name)
        if tool.function.parameters is not None:
            check_schema(tool.function.parameters, f"{place}.parameters")
    choice = request.tool_choice
    if isinstance(choice, NamedToolChoice) and choice.function.name not in names:
        _refuse("tool_choice.function.name", f"unknown tool {choice.function.name!r}")
    if choice == "required" and not names:
        _refuse("tool_choice", "the request has no tools to choose from")


def _check_keyword(keyword: str, value: Any, place: FieldPath, root: Any) -> None:
    """Raise ``InvalidInput`` for an invalid value of a keyword that has no subschemas."""
    if keyword == "type":
        kinds = value if isinstance(value, list) and value else [value]
        if not all(isinstance(kind, str) and kind in TYPES for kind in kinds):
            _refuse(place, f"must be one of {', '.join(sorted(TYPES))}, or a list of them")
    elif keyword == "required" and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        _refuse(place, "must be a list of names")
    elif keyword == "enum" and not (isinstance(value, list) and value):
        _refuse(place, "must be a list of values")
    elif keyword == "$ref" and not (isinstance(value, str) and _has_target(value, root)):
        _refuse(place, f"{shorten(repr(value))} is missing in this schema")


def _subschemas(keyword: str, value: Any, place: FieldPath) -> Iterator[tuple[Any, FieldPath]]:
    """Yield the schemas in the value of a keyword, each with its path."""
    if keyword in _SCHEMAS_BY_NAME:
        if not isinstance(value, Mapping):
            _refuse(place, "must be an object of schemas")
        yield from ((part, FieldPath(place, name)) for name, part in value.items())
    elif keyword in _SCHEMA_LISTS or (keyword == "items" and isinstance(value, list)):
        if not isinstance(value, list) or not value:
            _refuse(place, "must be a list of schemas")
        yield from ((part, FieldPath(place, number)) for number, part in enumerate(value))
    elif keyword in _SCHEMAS:
        yield value, place


def target_of(reference: str, root: Any) -> Any:
    """Return the part of a schema that a reference into it names; None if it is missing."""
    if not reference.startswith("#") or len(reference) > MAX_REFERENCE_LENGTH:
        return None
    target = root
    for step in reference.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        is_index = name.isdecimal() and len(name) <= MAX_INDEX_DIGITS
        if isinstance(target, list) and is_index and int(name) < len(target):
            target = target[int(name)]
        elif isinstance(target, Mapping) and name in target:
            target = target[name]
        else:
            return None
    return target


def _has_target(reference: str, root: Any) -> bool:
    """Return whether a reference has a target; references to other documents count as valid."""
    return not reference.startswith("#/") or target_of(reference, root) is not None
