"""What makes no sense in a chat request is named by its place; what does make sense is left alone."""

from __future__ import annotations

import base64
import tracemalloc
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host.chat.types import ChatRequest
from handler_host.chat.validation import check_schema, image_of, validate_request
from handler_host.plugin.errors import InvalidInput

USER = {"role": "user", "content": "look"}
URL = "messages[0].content[0].image_url.url"
SCHEMA = "response_format.json_schema.schema"
IMAGES = {
    "image/png": b"\x89PNG\r\n\x1a\n...",
    "image/jpeg": b"\xff\xd8\xff\xe0...",
    "image/gif": b"GIF89a...",
    "image/webp": b"RIFF\x0a\x00\x00\x00WEBP...",
}


def call(number: str = "c1", name: str = "look", arguments: str = "{}") -> dict[str, Any]:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls)}


def result(number: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "content": "a cat", "tool_call_id": number}


def image(url: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}


def data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def tool(name: str = "look", **schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def request(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return msgspec.convert({"messages": list(messages), **fields}, ChatRequest)


def answered_by(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ((), "messages"),
        (({"role": "assistant"},), "messages[0].content"),
        ((USER, result()), "messages[1].tool_call_id"),
        ((USER, calling(call()), result("c2")), "messages[2].tool_call_id"),
        ((USER, calling(call()), result(), result()), "messages[3].tool_call_id"),
        ((USER, calling(call()), USER, result()), "messages[1].tool_calls[0]"),
        ((USER, calling(call(), call("c2")), result(), USER), "messages[1].tool_calls[1]"),
        ((USER, calling(call())), "messages[1].tool_calls[0]"),
        ((USER, calling(call(), call()), result()), "messages[1].tool_calls[1].id"),
        ((image("ftp://x"),), URL),
        ((image("data:"),), URL),
        ((image("data:text/plain;base64,aGVsbG8="),), URL),
        ((image("data:image/png;base64,"),), URL),
        ((image("data:image/png;base64,%%%"),), URL),
        ((image(data_url("image/png", b"hello, I am no image")),), URL),
    ],
)
def test_what_no_provider_can_make_sense_of_is_named_by_its_place(
    messages: tuple[dict[str, Any], ...], param: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate_request(request(*messages))
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [tool(), tool("smell"), tool()]}, "tools[2].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "smell"}}},
            "tool_choice.function.name",
        ),
        ({"tools": [tool(type="thing")]}, "tools[0].function.parameters.type"),
        ({"tools": [tool(type="object", properties=[])]}, "tools[0].function.parameters.properties"),
        (answered_by({"type": "strange"}), f"{SCHEMA}.type"),
        (answered_by({"type": ["string", "nil"]}), f"{SCHEMA}.type"),
        (answered_by({"type": []}), f"{SCHEMA}.type"),
        (answered_by({"properties": {"a": {"items": {"type": 7}}}}), f"{SCHEMA}.properties.a.items.type"),
        (answered_by({"properties": {"a": "string"}}), f"{SCHEMA}.properties.a"),
        (answered_by({"required": "a"}), f"{SCHEMA}.required"),
        (answered_by({"enum": []}), f"{SCHEMA}.enum"),
        (answered_by({"anyOf": [{"type": "string"}, {"type": "x"}]}), f"{SCHEMA}.anyOf[1].type"),
        (answered_by({"oneOf": {}}), f"{SCHEMA}.oneOf"),
        (answered_by({"$ref": "#/$defs/city", "$defs": {"town": {}}}), f"{SCHEMA}.$ref"),
        (answered_by({"$ref": 7}), f"{SCHEMA}.$ref"),
    ],
)
def test_a_field_that_has_no_meaning_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate_request(request(USER, **fields))
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    "messages",
    [
        (USER, calling(call(), call("c2")), result("c2"), result(), {"role": "assistant", "content": "A cat."}),
        (USER, calling(call()), result(), calling(call()), result(), USER),
        ({"role": "assistant", "content": "Hello"}, USER, USER),
        ({"role": "system", "content": "Be brief."},),
        (image("https://127.0.0.1/cat.png"),),
        (image("data:image/svg+xml;charset=utf-8,%3Csvg%2F%3E"),),
        *((image(data_url(kind, data)),) for kind, data in IMAGES.items()),
        # Some providers look at the data, whatever their declared type.
        (image(data_url("image/jpeg", IMAGES["image/png"])),),
    ],
)
def test_what_some_provider_takes_is_left_to_it(messages: tuple[dict[str, Any], ...]) -> None:
    validate_request(request(*messages))


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": ["string", "null"], "enum": ["a", None]},
        {"type": "object", "properties": {"type": {"type": "string"}, "required": {}}, "additionalProperties": False},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"items": {"$ref": "#"}}}},
        {"$ref": "https://127.0.0.1/schema"},
        {"anyOf": [{"type": "string"}, True], "const": {"type": "strange"}, "x-note": {"properties": 3}},
        {"items": [{"type": "string"}], "allOf": [{"$ref": "#/anyOf/0"}], "anyOf": [{"default": {"enum": []}}]},
    ],
)
def test_a_schema_is_left_alone(schema: dict[str, Any]) -> None:
    check_schema(schema, "here")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "items", "$ref", "anyOf", "enum", "required", "$defs", "not"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(JSON)
def test_no_schema_is_answered_with_anything_else(schema: Any) -> None:
    with suppress(InvalidInput):
        check_schema(schema, "here")


@given(st.binary(min_size=1, max_size=50), st.booleans())
def test_an_images_data_is_what_was_sent(data: bytes, folded: bool) -> None:
    url = data_url("image/heic", data)
    assert image_of(url.replace(",", ",\r\n") if folded else url, "url") == ("image/heic", data)


def test_the_path_of_a_large_schema_is_built_only_for_an_error() -> None:
    """A long name around many leaves costs its own size in memory, not its size for each leaf."""
    leaves: dict[str, Any] = {f"{number:x}": {} for number in range(9_000)}
    schema = {"properties": {"a" * 170_000: {"properties": leaves}}}
    tracemalloc.start()
    try:
        check_schema(schema, "schema")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20_000_000


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {f"{number}": {} for number in range(20_000)}}, "may have 10000 subschemas"),
        ({"anyOf": [{"anyOf": [{}] * 200}] * 200}, "may have 10000 subschemas"),
        ({"items": [{"x": 1}, {"$ref": "#/items/" + "1" * 5_000}]}, "is missing in this schema"),
        ({"$ref": "#/" + "a/" * 100_000}, "is missing in this schema"),
        ({"properties": {"a" * 170_000: {"type": "x"}}}, "must be one of"),
    ],
)
def test_a_too_large_schema_is_refused_with_a_short_message(schema: dict[str, Any], message: str) -> None:
    """Breadth, references and names have a limit; the error names the path, shortened."""
    with pytest.raises(InvalidInput) as refusal:
        check_schema(schema, "schema")
    assert message in refusal.value.message
    assert len(refusal.value.message) < 2_000
    assert refusal.value.param is not None
    assert refusal.value.param.startswith("schema")


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    """Depth has a limit below what Python and the SDKs can recurse."""
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"items": schema}
    with pytest.raises(InvalidInput, match="nested too deeply"):
        check_schema(schema, "schema")
