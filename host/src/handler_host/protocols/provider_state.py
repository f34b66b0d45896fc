"""State at the provider that a native request refers to: one key serves all consumers, so they would share it.

A consumer could read another one's conversation, file or cache by its ID. So requests with such a reference are
refused, unless ``[handlers.NAME] provider_state`` allows them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from handler_host._internal.field_path import FieldPath
from handler_host.http.body import has_match, invalid_json
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.json_fields import Value

TRUE_ONLY = frozenset({"store", "background"})
"""Fields that only refer to state if they are ``true``."""
FIELDS: Mapping[str, tuple[str, ...]] = {
    "openai.chat": ("store",),
    "openai.responses": ("store", "background", "previous_response_id", "conversation", "prompt"),
    "anthropic.messages": ("container", "thread"),
    "gemini.generate_content": ("cachedContent", "cached_content"),
}
"""Fields at the top of a request that refer to state, by operation."""
THREAD_UNSUPPORTED = "thread_unsupported_request"
"""Anthropic's code for a request without threads: on it the tool runners of the SDKs send all messages again."""
ERROR_CODES = {"thread": THREAD_UNSUPPORTED}
"""Codes of refusals by the field, where the SDKs of the protocol have a second way on that code."""
REFERENCES = frozenset(
    {"file_id", "file_ids", "vector_store_ids", "container", "container_id", "skill_id"}
    | {"fileSearchStoreNames", "file_search_store_names", "cachedContent", "cached_content"}
    | {"ragCorpus", "rag_corpus", "datastore"}
)
"""Fields inside messages and tools that refer to state, in all protocols."""
_NAMED_BY_ID = frozenset({"audio", "voice"})
"""Fields that refer to state by their ``id``: an earlier recording of the model, a voice of the account."""
GOOGLE_FILE = re.compile(r"(?i)(https?://[^/]*/(?:[^/]+/)?)?files/")
"""Address of a file that was uploaded to Google; other addresses belong to the web."""
_FILE_URIS = frozenset({"fileUri", "file_uri"})
_NESTED = (
    *("messages", "input", "contents", "content", "tools", "audio", "requests"),
    *("systemInstruction", "system_instruction", "generateContentRequest", "generate_content_request"),
)
_DOWN = frozenset(
    {"content", "source", "file", "output", "parts", "fileData", "file_data", "image", "document"}
    | {"environment", "skills", "input_image_mask", "fileSearch", "file_search", "retrieval", "audio", "voice"}
    | {"vertexAiSearch", "vertex_ai_search", "vertexRagStore", "vertex_rag_store", "ragResources", "rag_resources"}
    | {"contents", "tools", "systemInstruction", "system_instruction"}
)
"""Fields that have parts with references below them. Arguments of tools are not among them: these are free."""
_SUSPECT_NAME = re.compile(
    rb'"(?:file_ids?|vector_store_ids|container(?:_id)?|skill_id|file_?[uU]ri|item_reference|audio|voice'
    rb'|file_?[sS]earch_?[sS]tore_?[nN]ames|cached_?[cC]ontent|rag_?[cC]orpus|datastore)"'
)
_SUSPECT_ESCAPE = re.compile(rb"\\u00[2-7]")
"""Escape of a letter, which may be one of these names. In one expression, the two take ten times as long."""
_ID = re.compile(rb'"id"')
_null = b"null"
_CONTAINERS = (dict, list)


_decode_items = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_IDENTITY = frozenset({"id", "type", "status"})
"""Fields of an item of OpenAI's ``input`` that are no content of it."""
_NOTHING = (b"null", b"[]", b'""')
_CONTENT = {"reasoning": "encrypted_content", "image_generation_call": "result"}
"""Items that the provider reads from its state if they lack this field."""


async def refuse_state(operation: str, body: bytes, fields: Mapping[str, Value], handler: str) -> None:
    """Raise ``InvalidInput`` for the first reference to state, and for text that is not UTF-8.

    ``fields`` are those of the body.
    """
    for name in FIELDS.get(operation, ()):
        if name in fields:
            text = body[fields[name].start : fields[name].end]
            if text == b"true" or (name not in TRUE_ONLY and text != _null):
                raise _refusal(name, handler)
    # A document without these words, also not as an escaped one, is not decoded.
    is_suspect = await has_match(_SUSPECT_NAME, body) or await has_match(_SUSPECT_ESCAPE, body)
    try:
        if operation == "openai.responses" and "input" in fields and (is_suspect or await has_match(_ID, body)):
            number = _find_bare_item(memoryview(body)[fields["input"].start : fields["input"].end])
            if number is not None:
                raise _refusal(f"input[{number}].id", handler)
        for name in _NESTED if is_suspect else ():
            if name in fields:
                place = _find(msgspec.json.decode(memoryview(body)[fields[name].start : fields[name].end]), name)
                if place is not None:
                    raise _refusal(place, handler)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_json(error) from None


def _find_bare_item(items: memoryview) -> int | None:
    """Return the index of the first item that the provider knows only by its ID, or None."""
    try:
        decoded = _decode_items(items)
    except msgspec.ValidationError:
        return None  # a text, or items that the provider refuses
    for number, item in enumerate(decoded):
        fields = {name: value for name, raw in item.items() if (value := bytes(raw)) not in _NOTHING}
        if "id" not in fields:
            continue
        kind = msgspec.json.decode(fields.get("type", _null))
        needed = _CONTENT.get(kind) if isinstance(kind, str) else None
        is_untyped = "type" not in fields and "role" not in fields  # which the provider reads as a reference
        if is_untyped or (needed is not None and needed not in fields) or fields.keys() <= _IDENTITY:
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
                if key in _NAMED_BY_ID and isinstance(nested, dict) and nested.get("id"):
                    return f"{FieldPath(path, key)}.id"
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
        details={"error_code": ERROR_CODES[place]} if place in ERROR_CODES else None,
    )
