"""OpenAI's shapes to the host's and back, without a host."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host import chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.chat_service import handler_of
from handler_host.protocols.openai.requests import IGNORED, NEUTRAL, decode_request
from handler_host.protocols.openai.responses import ChunkEncoder, completion

USER = {"role": "user", "content": "hello"}


def request(**fields: Any) -> bytes:
    """Return the body of a request that is right, but for ``fields``."""
    whole = {"model": "gpt_a", "messages": [USER], **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def chunks_of(*chunks: chat.ChatChunk, include_usage: bool = False) -> list[Any]:
    """Return the chunks of a stream, as a client sees them."""
    encoder = ChunkEncoder(completion_id="chatcmpl-1", created=1, model="requested", include_usage=include_usage)
    encoded = [data for chunk in chunks for data in encoder.chunks(chunk)] + encoder.last()
    return [json.loads(msgspec.json.encode(data)) for data in encoded]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"messages": ...}, "messages", "is missing"),
        ({"model": ...}, "model", "is missing"),
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": "hello"}, "messages", "expected 'array'"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "system, developer, user"),
        ({"messages": [USER, {"content": "x"}]}, "messages[1].role", "is missing"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "got 'int'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        ({"messages": [{**USER, "mood": "good"}]}, "messages[0].mood", "not known"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0].type",
            "text or image_url",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "is missing"),
        ({"temperature": "hot"}, "temperature", "got 'str'"),
        ({"temperature": 3}, "temperature", "<= 2"),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_completion_tokens", "one of them"),
        ({"model": ""}, "model", "length"),
        ({"model": "gpt_a/"}, "model", "HANDLER/MODEL"),
        ({"model": "/gpt-4o"}, "model", "HANDLER/MODEL"),
        ({"n": 2}, "n", "one request for each"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"modalities": ["text", "audio"]}, "modalities", "not supported"),
        ({"audio": {"voice": "x"}}, "audio", "not supported"),
        ({"functions": []}, "functions", "tools"),
        ({"function_call": "auto"}, "function_call", "tool_choice"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
        ({"zzz": 1}, "zzz", "unknown field"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "not known"),
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, "tools[0].type", "function"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"store": True, "temperature": "hot"}, "temperature", "got 'str'"),
    ],
)
def test_what_is_wrong_is_said_with_the_path_to_it(fields: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        decode_request(request(**fields))
    assert raised.value.param == param
    assert said in raised.value.message


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b"{", b'{"model": "\xff"}', b"[" * 100_000, b'{"n": 1e999}'])
def test_what_is_no_request_at_all_is_invalid_input_too(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_request(body)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_no_value_of_any_field_is_answered_with_anything_else(value: Any) -> None:
    """Given any JSON in any place, a request is decoded or refused as invalid, and nothing else happens."""
    for name in ("messages", "tools", "stop", "stream_options", "n", "audio", "store", "other"):
        try:
            decode_request(request(**{name: value})).to_chat()
        except InvalidInput as error:
            assert error.param  # noqa: PT017 - both outcomes are right


def test_fields_that_change_nothing_are_taken() -> None:
    neutral = {name: values[0] if values else None for name, values in NEUTRAL.items()}
    decoded = decode_request(request(**dict.fromkeys(IGNORED, "x"), **neutral, seed=None, stop=None))
    assert decoded.to_chat() == chat.ChatRequest(messages=[chat.UserMessage(content="hello")])


def test_a_request_is_translated_whole() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    decoded = decode_request(
        request(
            model="gpt_a/openai/gpt-4o",
            messages=[
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "see"}]},
            ],
            max_completion_tokens=7,
            stop="END",
            tools=[tool],
            tool_choice={"type": "function", "function": {"name": "look"}},
            response_format={"type": "json_object"},
            temperature=1,
        )
    )
    assert handler_of(decoded.model) == "gpt_a"
    asked = decoded.to_chat()
    # What the worker decodes is what was meant.
    asked = msgspec.json.decode(msgspec.json.encode(asked), type=chat.ChatRequest)
    assert asked == chat.ChatRequest(
        model="openai/gpt-4o",
        messages=[
            chat.SystemMessage(content="be brief"),
            chat.UserMessage(content=[chat.TextPart(text="see")]),
        ],
        max_tokens=7,
        stop=["END"],
        tools=[chat.Tool(function=chat.FunctionSpec(name="look", parameters={"type": "object"}))],
        tool_choice=chat.NamedToolChoice(function=chat.NamedFunction(name="look")),
        response_format=chat.JsonObjectFormat(),
        temperature=1.0,
    )


def test_an_answer_can_be_sent_back_as_its_sdk_has_given_it() -> None:
    echoed = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    }
    result = {"role": "tool", "tool_call_id": "call_1", "content": "seen"}
    asked = decode_request(request(messages=[USER, echoed, result])).to_chat()
    asked = msgspec.json.decode(msgspec.json.encode(asked), type=chat.ChatRequest)
    call = chat.ToolCall(id="call_1", function=chat.FunctionCall(name="look", arguments="{}"))
    assert asked.messages[1:] == [
        chat.AssistantMessage(tool_calls=[call]),
        chat.ToolMessage(tool_call_id="call_1", content="seen"),
    ]


def test_a_stream_begins_with_the_role_and_ends_with_the_reason() -> None:
    made = chunks_of(
        chat.TextChunk(text="a"),
        chat.ModelChunk(model="real"),
        chat.TextChunk(text="b"),
        chat.FinishChunk(reason="length"),
    )
    assert [chunk["choices"][0]["delta"] for chunk in made] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in made] == [None, None, None, "length"]
    assert [chunk["model"] for chunk in made] == ["requested", "requested", "real", "real"]
    assert all("usage" not in chunk for chunk in made)
    assert {chunk["object"] for chunk in made} == {"chat.completion.chunk"}


def test_usage_comes_in_a_chunk_of_its_own_for_who_wants_it() -> None:
    usage = chat.Usage(prompt_tokens=3, completion_tokens=2)
    made = chunks_of(
        chat.TextChunk(text="a"),
        chat.FinishChunk(reason="stop"),
        chat.UsageChunk(usage=usage),
        include_usage=True,
    )
    assert [chunk["usage"] for chunk in made[:-1]] == [None] * 3
    assert made[-1]["choices"] == []
    assert made[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_a_stream_without_a_reason_or_a_piece_still_ends_as_one() -> None:
    made = chunks_of()
    assert [chunk["choices"][0]["finish_reason"] for chunk in made] == [None, "stop"]


def test_the_parts_of_tool_calls_have_their_index_and_the_first_one_has_its_name() -> None:
    made = chunks_of(
        chat.ToolCallChunk(index=0, id="c1", name="look", arguments="{"),
        chat.ToolCallChunk(index=0, arguments="}"),
        chat.FinishChunk(reason="tool_calls"),
    )
    assert [chunk["choices"][0]["delta"].get("tool_calls") for chunk in made] == [
        None,
        [{"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": "{"}}],
        [{"index": 0, "function": {"arguments": "}"}}],
        None,
    ]
    assert made[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_refusal_is_one_in_a_stream_and_in_a_whole_answer() -> None:
    made = chunks_of(chat.RefusalChunk(text="no"), chat.FinishChunk(reason="content_filter"))
    assert made[1]["choices"][0]["delta"] == {"refusal": "no"}
    response = chat.ChatResponse(content=[chat.RefusalPart(text="no")], finish_reason="content_filter", usage=None)
    whole = json.loads(msgspec.json.encode(completion(response, completion_id="1", created=1, model="m")))
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": "no"}
    assert "usage" not in whole
