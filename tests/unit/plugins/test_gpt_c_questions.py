"""What gpt_c makes of a chat request, without a provider and without an SDK."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_c import GptC
from gpt_c.backend import Question, wants_signatures
from gpt_c.questions import question
from gpt_c.schemas import to_google
from handler_host.chat import ChatRequest, leave_out_unsupported
from handler_host.plugin import InvalidInput

USER = {"role": "user", "content": "Hi"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look"}}
OTHER_TOOL: dict[str, Any] = {"type": "function", "function": {"name": "find"}}


def asked(model: str = "gemini-x", **fields: Any) -> Question:
    request = msgspec.convert({"messages": [USER], **fields}, ChatRequest)
    leave_out_unsupported(request, GptC.supports, GptC.lacks, provider="Gemini")
    return question(request, model)


def image(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"messages": image("https://127.0.0.1/cat.png")}, "messages[0].content[0].image_url.url", "does not fetch"),
        ({"messages": image("data:text/plain,hello")}, "messages[0].content[0].image_url.url", "of an image"),
        ({"messages": image("data:image/png;base64,%%%")}, "messages[0].content[0].image_url.url", "base64"),
        ({"messages": image("data:image/png;base64,")}, "messages[0].content[0].image_url.url", "no data"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "empty"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages", "beside the instructions"),
        (
            {"parallel_tool_calls": False, "tools": [TOOL, OTHER_TOOL], "unsupported": "refuse"},
            "parallel_tool_calls",
            "Gemini",
        ),
        ({"logit_bias": {"1": 2}}, "logit_bias", "Gemini"),
    ],
)
def test_what_gemini_cannot_do_is_refused_with_the_field(fields: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        asked(**fields)
    assert raised.value.param == param
    assert said in raised.value.message


def test_images_are_sent_as_they_are() -> None:
    made = asked(messages=image("data:image/png;base64,QUJD"))
    assert made.contents[0]["parts"] == [{"inline_data": {"mime_type": "image/png", "data": b"ABC"}}]
    made = asked(messages=image("data:image/svg+xml;charset=utf-8,%3Csvg%2F%3E"))
    assert made.contents[0]["parts"] == [{"inline_data": {"mime_type": "image/svg+xml", "data": b"<svg/>"}}]


def test_what_is_documented_as_ignored_is_taken() -> None:
    detailed = image("data:image/png;base64,QUJD")
    detailed[0]["content"][0]["image_url"]["detail"] = "low"
    strict = {**TOOL, "function": {**TOOL["function"], "strict": True}}
    plain = asked(messages=[USER, *image("data:image/png;base64,QUJD")], tools=[TOOL])
    assert asked(messages=[{**USER, "name": "ann"}, *detailed], tools=[strict], user="u1") == plain
    assert asked(parallel_tool_calls=True) == asked()


def test_all_instructions_are_one_wherever_they_stand() -> None:
    made = asked(messages=[{"role": "system", "content": "A."}, USER, {"role": "system", "content": "B."}])
    assert made.system == "A.\n\nB."
    assert [content["role"] for content in made.contents] == ["user"]


def test_the_results_of_one_turn_are_one_content() -> None:
    calls = [
        {"id": number, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for number, name in (("c1", "look"), ("c2", "smell"))
    ]
    results = [{"role": "tool", "tool_call_id": number, "content": number} for number in ("c2", "c1")]
    made = asked(messages=[USER, {"role": "assistant", "tool_calls": calls}, *results, USER])
    assert [content["role"] for content in made.contents] == ["user", "model", "user", "user"]
    assert [part["function_response"]["name"] for part in made.contents[2]["parts"]] == ["smell", "look"]


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("none", {"mode": "NONE"}),
        ("auto", {"mode": "AUTO"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "look"}}, {"mode": "ANY", "allowed_function_names": ["look"]}),
    ],
)
def test_tools_are_chosen_in_googles_words(choice: Any, config: dict[str, Any]) -> None:
    assert asked(tools=[TOOL], tool_choice=choice).tool_config == {"function_calling_config": config}


@pytest.mark.parametrize(
    ("model", "sent", "signed"),
    [
        ("gemini-2.5-flash", "models/gemini-2.5-flash", False),
        ("models/gemini-3-pro", "models/gemini-3-pro", True),
        ("gpt_a/gemini-3", "models/gpt_a/gemini-3", False),
        ("tunedModels/mine", "tunedModels/mine", False),
    ],
)
def test_models_are_named_as_google_does(model: str, sent: str, signed: bool) -> None:
    made = asked(model)
    assert made.model == sent
    assert wants_signatures(made.model) is signed


def test_json_schema_becomes_googles() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Person",
        "type": "object",
        "additionalProperties": False,
        "$defs": {"City": {"type": "string", "description": "Where."}},
        "properties": {
            "city": {"$ref": "#/$defs/City", "title": "City"},
            "born": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "kind": {"enum": ["a", "b"]},
            "one": {"const": "x"},
            "pets": {"type": ["array", "null"], "items": {"allOf": [{"$ref": "#/$defs/City"}]}, "maxItems": 3},
        },
        "required": ["city"],
    }
    assert to_google(schema, "s") == {
        "type_": "OBJECT",
        "properties": {
            "city": {"type_": "STRING", "description": "Where."},
            "born": {"type_": "INTEGER", "nullable": True},
            "kind": {"type_": "STRING", "format_": "enum", "enum": ["a", "b"]},
            "one": {"type_": "STRING", "format_": "enum", "enum": ["x"]},
            "pets": {
                "type_": "ARRAY",
                "nullable": True,
                "items": {"type_": "STRING", "description": "Where."},
                "max_items": 3,
            },
        },
        "required": ["city"],
    }


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "x+"}}}, "s.properties.a.pattern"),
        ({"type": "integer", "minimum": 3}, "s.minimum"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "s.anyOf"),
        ({"type": "integer", "enum": [1, 2]}, "s.enum"),
        ({"type": "text"}, "s.type"),
        ({"type": ["string", "integer"]}, "s.type"),
        ({"description": "x"}, "s.type"),
        ({"type": "array", "items": 5}, "s.items"),
        ({"$ref": "#/$defs/none"}, "s.$ref"),
        ({"$ref": "https://127.0.0.1/schema"}, "s.$ref"),
        ({"type": "string", "description": 5}, "s.description"),
    ],
)
def test_schema_words_that_google_lacks_are_refused_by_path(schema: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        to_google(schema, "s")
    assert raised.value.param == param


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"type": "array", "items": {"$ref": "#"}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ],
)
def test_a_schema_that_refers_to_itself_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="itself"):
        to_google(schema, "s")


@pytest.mark.parametrize(("levels", "references"), [(30, 2), (8, 4)])
def test_a_small_schema_of_millions_of_parts_is_refused(levels: int, references: int) -> None:
    """Each level refers to the next one several times."""
    definitions: dict[str, Any] = {
        f"a{level}": {"properties": {f"p{n}": {"$ref": f"#/$defs/a{level + 1}"} for n in range(references)}}
        for level in range(levels)
    }
    definitions[f"a{levels}"] = {"type": "string"}
    with pytest.raises(InvalidInput, match="more than 5000 parts with its references"):
        to_google({"$ref": "#/$defs/a0", "$defs": definitions}, "s")


WORDS = st.sampled_from(
    ["type", "properties", "items", "anyOf", "allOf", "enum", "const", "$ref", "required", "format"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["object", "string", "array", "null", "#", "#/items"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(WORDS, JSON, max_size=4))
def test_no_schema_is_answered_with_anything_else(schema: dict[str, Any]) -> None:
    """Given any JSON as a schema, it is translated or refused with its place, and nothing else happens."""
    try:
        to_google(schema, "s")
    except InvalidInput as error:
        assert error.param  # noqa: PT017 - both outcomes are right
