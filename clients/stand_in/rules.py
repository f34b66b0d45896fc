"""Rules by which the providers themselves refuse requests, so that a wrong translation fails here, too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

GEMINI_SCHEMA_KEYS = {
    *("type", "format", "title", "description", "nullable", "enum", "properties", "required", "propertyOrdering"),
    *("maxItems", "minItems", "minProperties", "maxProperties", "minLength", "maxLength", "pattern", "example"),
    *("anyOf", "default", "items", "minimum", "maximum"),
}
"""The keys of a schema in `parameters`; `parametersJsonSchema` takes any JSON schema."""


def violation(protocol: str, body: dict[str, Any]) -> str | None:
    """Return the first rule of a provider that a request breaks."""
    checks = {"openai": _openai, "responses": _responses, "anthropic": _anthropic, "gemini": _gemini}
    return next(checks[protocol](body), None)


def _openai(body: dict[str, Any]) -> Iterator[str]:
    for tool in body.get("tools") or ():
        if tool["type"] == "function":
            yield from _openai_tool(tool["function"])
    expected: set[str] = set()
    for number, message in enumerate(body["messages"]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in expected:
                yield f"messages.{number}: 'tool' must follow a message with 'tool_calls' of its id"
            expected.discard(message["tool_call_id"])
            if any(part["type"] != "text" for part in message["content"] if isinstance(part, dict)):
                yield f"messages.{number}: a tool's content takes only text"
            continue
        if expected:
            yield f"messages.{number}: no tool messages for tool_call_ids {', '.join(sorted(expected))}"
        expected = {call["id"] for call in message.get("tool_calls") or ()}
        if any(not 0 < len(call) <= 40 for call in expected):
            yield f"messages.{number}: a tool call's id has 1 to 40 characters"


def _responses(body: dict[str, Any]) -> Iterator[str]:
    for tool in body.get("tools") or ():
        if tool["type"] == "function":
            yield from _openai_tool(tool)
    items = body["input"] if isinstance(body["input"], list) else []
    calls = {item["call_id"] for item in items if item.get("type") in ("function_call", "custom_tool_call")}
    outputs = {str(item.get("call_id")) for item in items if str(item.get("type")).endswith("_call_output")}
    for missing in sorted(calls - outputs):
        yield f"input: no tool output found for function call {missing}"
    for missing in sorted(outputs - calls):
        yield f"input: no tool call found for function call output {missing}"


def _openai_tool(function: dict[str, Any]) -> Iterator[str]:
    name, schema = function["name"], function.get("parameters")
    if not re.fullmatch("[a-zA-Z0-9_-]{1,64}", name):
        yield f"tools: invalid name {name!r}"
    if schema is None:
        return
    if schema.get("type") != "object":
        yield f"{name}: schema must be a JSON Schema of 'type: \"object\"'"
    elif "properties" not in schema:  # of objects inside of it OpenAI demands none
        yield f"{name}: object schema missing properties"
    if unions := {"anyOf", "oneOf", "allOf", "enum", "not"} & set(schema):
        yield f"{name}: schema must not have {', '.join(sorted(unions))} at the top level"
    for inner in _schemas(schema):
        if inner.get("type") == "array" and "items" not in inner:
            yield f"{name}: array schema missing items"


def _anthropic(body: dict[str, Any]) -> Iterator[str]:
    names = set()
    for tool in body.get("tools") or ():
        if tool["name"] in names or not re.fullmatch("[a-zA-Z0-9_-]{1,128}", tool["name"]):
            yield f"tools: invalid or repeated name {tool['name']!r}"
        names.add(tool["name"])
        schema = tool.get("input_schema")
        if schema is not None and (schema.get("type") != "object" or {"anyOf", "oneOf", "allOf"} & set(schema)):
            yield f"{tool['name']}: input_schema must have type object and no oneOf, allOf, or anyOf at the top level"
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        yield "thinking.budget_tokens: at least 1024 and less than max_tokens"
    if thinking.get("type") in ("enabled", "adaptive") and body.get("temperature") not in (None, 1):
        yield "temperature: may only be set to 1 when thinking is enabled"
    markers = str([body.get("system"), body.get("tools"), body["messages"]]).count("'cache_control': {")
    if markers > 4:
        yield f"a maximum of 4 blocks with cache_control may be provided; found {markers}"
    uses: set[str] = set()
    for number, message in enumerate(body["messages"]):
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if any(block["type"] == "text" and not block["text"] for block in blocks):
            yield f"messages.{number}: text content blocks must be non-empty"
        results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if results != uses:
            yield f"messages.{number}: tool_use {sorted(uses)} has the results {sorted(results)}"
        uses = {block["id"] for block in blocks if block["type"] == "tool_use"}


def _gemini(body: dict[str, Any]) -> Iterator[str]:
    for tool in body.get("tools") or ():
        for function in _either(tool, "functionDeclarations", "function_declarations") or ():
            if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}", function["name"]):
                yield f"tools: invalid function name {function['name']!r}"
            yield from _gemini_schema(function["name"], function.get("parameters"))
    config = _either(body, "generationConfig", "generation_config") or {}
    yield from _gemini_schema("responseSchema", _either(config, "responseSchema", "response_schema"))
    calls = 0
    for number, content in enumerate(body["contents"]):
        parts = content.get("parts") or ()
        if not parts:
            yield f"contents.{number}: parts must not be empty"
        results = sum(_either(part, "functionResponse", "function_response") is not None for part in parts)
        if results != calls:
            yield f"contents.{number}: {calls} function calls have {results} function responses"
        calls = sum(_either(part, "functionCall", "function_call") is not None for part in parts)


def _either(value: dict[str, Any], camel: str, snake: str) -> Any:
    """Return the value of a key, which Google's API takes in both cases."""
    return value.get(camel, value.get(snake))


def _gemini_schema(place: str, schema: dict[str, Any] | None) -> Iterator[str]:
    for inner in _schemas(schema or {}):
        inner = {re.sub("_([a-z])", lambda match: match[1].upper(), key): value for key, value in inner.items()}
        kind = str(inner.get("type")).upper()
        if unknown := set(inner) - GEMINI_SCHEMA_KEYS:
            yield f"{place}: unknown name {', '.join(sorted(unknown))}"
        if isinstance(inner.get("type"), list):
            yield f"{place}: type is not a list"
        if kind == "OBJECT" and inner.get("properties") == {}:
            yield f"{place}: properties should be non-empty for OBJECT type"
        if kind == "ARRAY" and "items" not in inner:
            yield f"{place}: items: missing field"
        if inner.get("enum") and kind != "STRING":
            yield f"{place}: enum: only allowed for STRING type"
        if lost := set(inner.get("required") or ()) - set(inner.get("properties") or ()):
            yield f"{place}: required: property is not defined: {', '.join(sorted(lost))}"


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and all schemas in it."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key in ("properties", "$defs", "definitions"):
        for inner in (schema.get(key) or {}).values():
            yield from _schemas(inner)
    for key in ("anyOf", "oneOf", "allOf"):
        for inner in schema.get(key) or ():
            yield from _schemas(inner)
    for key in ("items", "additionalProperties"):
        yield from _schemas(schema.get(key))
