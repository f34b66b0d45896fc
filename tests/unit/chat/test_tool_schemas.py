"""Tool schemas of MCP servers, in the form that OpenAI and Anthropic take."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from gpt_a.requests import request_body
from gpt_b.requests import message_body
from handler_host.chat import ChatRequest, flatten_tool_schemas
from handler_host.chat.validation import tidy_schemas, validate_request

A = {"type": "object", "properties": {"a": {"type": "string"}, "c": {}}, "required": ["a", "c"]}
B = {"properties": {"b": {"type": "integer"}, "c": {}}, "required": ["b", "c"]}
BOTH = {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {}}


def request(schema: dict[str, Any]) -> ChatRequest:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    chat = msgspec.convert({"messages": [{"role": "user", "content": "hi"}], "tools": [tool]}, ChatRequest)
    tidy_schemas(chat)
    validate_request(chat)
    return chat


def sent(schema: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the schema that reaches both providers, and the words that were left out."""
    to_a = request_body(request(schema), "gpt-4.1", is_openai=True)
    to_b = message_body(request(schema), "claude-opus-4-8", 100)
    parameters = to_a.content["tools"][0]["function"]["parameters"]
    assert (to_b.content["tools"][0]["input_schema"], to_b.ignored) == (parameters, to_a.ignored)
    return parameters, to_a.ignored


@pytest.mark.parametrize(
    ("schema", "required", "words"),
    [
        ({"allOf": [A, B]}, ["a", "b", "c"], []),
        ({"anyOf": [A, B]}, ["c"], ["anyOf"]),
        ({"type": "object", "oneOf": [A, B], "required": ["b"]}, ["b", "c"], ["oneOf"]),
        ({"$ref": "#/$defs/C", "$defs": {"C": {"allOf": [A, {"$ref": "#/$defs/B"}]}, "B": B}}, ["a", "b", "c"], []),
    ],
)
def test_combinations_at_the_top_become_one_object(
    schema: dict[str, Any], required: list[str], words: list[str]
) -> None:
    parameters, ignored = sent(schema)
    assert parameters["type"] == "object"
    assert parameters["properties"] == BOTH
    assert parameters["required"] == required
    assert not parameters.keys() & {"$ref", "allOf", "anyOf", "oneOf"}
    assert ignored == [f"tools[].function.parameters.{word}" for word in words]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, {"type": "object", "properties": {}}),
        ({"type": "object", "properties": None}, {"type": "object", "properties": {}}),
        (
            {"properties": {"a": {"type": "array"}, "b": {"type": "object", "properties": None}}},
            {"type": "object", "properties": {"a": {"type": "array", "items": {}}, "b": {"type": "object"}}},
        ),
    ],
)
def test_what_openai_demands_is_added(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sent(schema) == (expected, [])


@pytest.mark.parametrize(
    "target",
    [{"required": 5, "properties": 3}, {"required": [1, "a"]}, {"anyOf": 5}, {"$ref": 5}, {"$ref": []}, "text"],
)
def test_a_reference_may_lead_to_an_invalid_schema(target: Any) -> None:
    """Nothing checks the places outside of the words of JSON Schema: the handler failed with 500."""
    parameters, _ = sent({"$ref": "#/x", "x": target})
    assert (parameters["type"], parameters["properties"]) == ("object", {})


def test_a_reference_that_leads_out_of_the_schema_is_named() -> None:
    assert sent({"$ref": "https://example.com/schema"})[1] == ["tools[].function.parameters.$ref"]


def test_options_are_merged_in_linear_time() -> None:
    """Each option copied the whole schema: 11 s of CPU for this one, of 2 MB."""
    chat = request({**{f"word{number}": 1 for number in range(200_000)}, "anyOf": [{}] * 2000})
    start = time.process_time()
    flatten_tool_schemas(chat)
    assert time.process_time() - start < 3


def test_a_reference_to_itself_at_the_top_ends() -> None:
    parameters, _ = sent({"anyOf": [*[{"$ref": "#"}] * 20, A]})
    assert parameters["properties"] == A["properties"]
