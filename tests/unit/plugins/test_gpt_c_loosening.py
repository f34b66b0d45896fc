"""Schemas of usual tools, as google-generativeai can carry them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_c.loosening import loosen
from gpt_c.schemas import to_google
from tests.recorded_requests import RECORDED_REQUESTS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "object", "#", "#/properties/a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "anyOf", "allOf", "$ref", "enum", "required", "a", "format"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("schema", "loose", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 5}, {"type": "integer"}, ["maximum", "minimum"]),
        ({"type": "STRING", "maxLength": 5}, {"type": "string"}, ["maxLength"]),
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}, []),
        ({"anyOf": [{"type": "string"}, {"type": "number"}]}, {"type": "string"}, ["anyOf"]),
        ({"type": "string", "format": "uri"}, {"type": "string"}, ["format"]),
        ({"enum": [1, 2], "type": "integer"}, {"type": "integer"}, ["enum"]),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}, []),
        ({}, {"type": "string"}, []),
        (
            {"type": "object", "propertyNames": {"pattern": "x"}, "properties": {"a": {}}, "required": ["a", "b"]},
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            ["propertyNames"],
        ),
        (
            {"$defs": {"A": {"type": "number"}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}},
            {"type": "object", "properties": {"a": {"type": "number"}}},
            [],
        ),
    ],
)
def test_a_schema_is_loosened_and_the_words_are_named(
    schema: dict[str, Any], loose: dict[str, Any], words: list[str]
) -> None:
    assert loosen(schema) == (loose, words)


@given(st.dictionaries(st.sampled_from(["type", "properties", "items", "$ref", "anyOf"]), JSON))
def test_any_schema_is_loosened_to_one_that_the_sdk_can_express(schema: dict[str, Any]) -> None:
    to_google(loosen(schema)[0], "parameters")


def test_required_names_that_are_not_texts_are_left_out() -> None:
    """A list among them was a 500: it cannot be looked up."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": [[], {}, "a"]}
    assert loosen(schema)[0]["required"] == ["a"]


def test_a_schema_that_repeats_itself_stays_small() -> None:
    schema: dict[str, Any] = {"$ref": "#/$defs/n0", "$defs": {}}
    for number in range(20):
        part = {"$ref": f"#/$defs/n{number + 1}"}
        schema["$defs"][f"n{number}"] = {"type": "object", "properties": {"a": part, "b": part}}
    loose, words = loosen(schema)
    assert len(json.dumps(loose)) < 200_000
    assert words == ["$ref"]


@pytest.mark.parametrize("path", RECORDED_REQUESTS, ids=[path.stem for path in RECORDED_REQUESTS])
def test_the_tools_of_real_clients_are_taken(path: Path) -> None:
    tools = json.loads(path.read_text())["body"].get("tools") or []
    declared = [
        function for tool in tools for function in (tool.get("functionDeclarations") or [tool.get("function", tool)])
    ]
    for function in declared:
        schema: dict[str, Any] = next(
            (function[name] for name in function if name.startswith(("parameters", "input_schema"))), {}
        )
        to_google(loosen(schema)[0], "parameters")
