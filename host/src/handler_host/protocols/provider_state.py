"""State at the provider that a native request refers to: one key serves all consumers, so they would share it. Pure.

A consumer could read another one's conversation, file or cache by its ID. So requests with such a reference are
refused, unless ``[handlers.NAME] provider_state`` allows them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from handler_host._internal.field_path import FieldPath
from handler_host.http.body import invalid_json
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.json_fields import Value

TRUE_ONLY = frozenset({"store", "background"})
"""Fields that only refer to state if they are ``true``."""
FIELDS: Mapping[str, tuple[str, ...]] = {
    "openai.chat": ("store",),
    "openai.responses": ("store", "background", "previous_response_id", "conversation"),
    "anthropic.messages": ("container",),
    "gemini.generate_content": ("cachedContent", "cached_content"),
}
"""Fields at the top of a request that refer to state, by operation."""
REFERENCES = frozenset(
    {"file_id", "file_ids", "vector_store_ids", "container", "container_id"}
    | {"fileSearchStoreNames", "file_search_store_names"}
)
"""Fields inside messages and tools that refer to state, in all protocols."""
GOOGLE_FILE = re.compile(r"(?i)(https?://[^/]*/(?:[^/]+/)?)?files/")
"""Address of a file that was uploaded to Google; other addresses belong to the web."""
_FILE_URIS = frozenset({"fileUri", "file_uri"})
_NESTED = ("messages", "input", "contents", "tools", "systemInstruction", "system_instruction")
_DOWN = frozenset(
    {"content", "source", "file", "output", "parts", "fileData", "file_data", "image", "document"}
    | {"environment", "input_image_mask", "fileSearch", "file_search"}
)
"""Fields that have parts with references below them. Arguments of tools are not among them: these are free."""
_SUSPECT = re.compile(
    rb'"(?:file_ids?|vector_store_ids|container(?:_id)?|file_?[uU]ri|item_reference'
    rb'|file_?[sS]earch_?[sS]tore_?[nN]ames)"|\\u00[2-7]',
    re.ASCII,
)
_null = b"null"
_CONTAINERS = (dict, list)


class _Item(msgspec.Struct):
    """Item of OpenAI's ``input``; without type and role, or with the type null, it is a reference by its ID."""

    id: Any = None
    type: Any = None
    role: Any = None


_decode_items = msgspec.json.Decoder(list[_Item]).decode


def refuse_state(operation: str, body: bytes, fields: Mapping[str, Value], handler: str) -> None:
    """Raise ``InvalidInput`` for the first reference to state, and for text that is not UTF-8.

    ``fields`` are those of the body.
    """
    for name in FIELDS.get(operation, ()):
        if name in fields:
            text = body[fields[name].start : fields[name].end]
            if text == b"true" or (name not in TRUE_ONLY and text != _null):
                raise _refusal(name, handler)
    # A document without these words, also not as an escaped one, is not decoded.
    is_suspect = _SUSPECT.search(body) is not None
    try:
        if operation == "openai.responses" and "input" in fields and (is_suspect or b'"id"' in body):
            number = _find_untyped_reference(memoryview(body)[fields["input"].start : fields["input"].end])
            if number is not None:
                raise _refusal(f"input[{number}].id", handler)
        for name in _NESTED if is_suspect else ():
            if name in fields:
                place = _find(msgspec.json.decode(memoryview(body)[fields[name].start : fields[name].end]), name)
                if place is not None:
                    raise _refusal(place, handler)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_json(error) from None


def _find_untyped_reference(items: memoryview) -> int | None:
    """Return the index of the first item that is only an ID, or None."""
    try:
        decoded = _decode_items(items)
    except msgspec.ValidationError:
        return None  # a text, or items that the provider refuses
    for number, item in enumerate(decoded):
        if item.id is not None and item.type is None and item.role is None:
            return number
    return None


def _find(value: Any, name: str) -> str | None:
    """Return the path of the first reference in messages or tools, or None."""
    pending: list[tuple[Any, FieldPath]] = [(value, FieldPath(None, name))]
    while pending:
        current, path = pending.pop()
        if isinstance(current, list):
            pending += [
                (item, FieldPath(path, number)) for number, item in enumerate(current) if isinstance(item, _CONTAINERS)
            ]
        elif isinstance(current, dict):
            if current.get("type") == "item_reference":
                return f"{path}.id"
            for key, nested in current.items():
                if nested and key in _DOWN:
                    pending.append((nested, FieldPath(path, key)))
                elif nested and _is_reference(key, nested):
                    return str(FieldPath(path, key))
    return None


def _is_reference(key: str, value: Any) -> bool:
    if key in _FILE_URIS:
        return isinstance(value, str) and GOOGLE_FILE.match(value) is not None
    if key == "container" and isinstance(value, dict):
        return bool(value.get("file_ids"))
    return key in REFERENCES


def _refusal(place: str, handler: str) -> InvalidInput:
    return InvalidInput(
        f"{place} refers to state at the provider, which all consumers of {handler} would share; leave it out, or set "
        f"provider_state = true in [handlers.{handler}]",
        param=place,
    )
