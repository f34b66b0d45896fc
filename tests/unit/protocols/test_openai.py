"""Requests and responses of OpenAI's chat completions."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host import chat
from handler_host.dispatch.model_names import split_model
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.openai.encoder import ChunkEncoder
from handler_host.protocols.openai.requests import FIELDS, decode_request
from handler_host.protocols.openai.responses import completion

USER = {"role": "user", "content": "hello"}


def request(**fields: Any) -> bytes:
    """Return the body of a request that is valid except for ``fields``."""
    whole = {"model": "gpt_a", "messages": [USER], **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def chunks_of(*chunks: chat.ChatChunk, include_usage: bool = False) -> list[Any]:
    """Return the chunks of a stream, as a client sees them."""
    encoder = ChunkEncoder(completion_id="chatcmpl-1", created=1, model="requested", include_usage=include_usage)
    encoded = [data for chunk in chunks for data in encoder.chunks(chunk)] + encoder.last()
    return [json.loads(msgspec.json.encode(data)) for data in encoded]


class TestValidation:
    """Requests that are refused, with the path to the field."""

    @pytest.mark.parametrize(
        ("fields", "param", "text"),
        [
            ({"messages": ...}, "messages", "is missing"),
            ({"model": ...}, "model", "is missing"),
            ({"messages": []}, "messages", "length >= 1"),
            ({"messages": "hello"}, "messages", "expected 'array'"),
            ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "system, developer, user"),
            ({"messages": [USER, {"content": "x"}]}, "messages[1].role", "is missing"),
            ({"messages": [USER, {"role": "assistant", "audio": {"id": "a"}}]}, "messages[1].audio", "no recordings"),
            (
                {"messages": [USER, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]},
                "messages[1].function_call",
                "send tool_calls",
            ),
            ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "got 'int'"),
            ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
            ({"messages": [{**USER, "mood": "good"}]}, "messages[0].mood", "unknown field"),
            (
                {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
                "messages[0].content[0].input_audio",
                "is missing",
            ),
            ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "is missing"),
            ({"temperature": "hot"}, "temperature", "got 'str'"),
            ({"temperature": 3}, "temperature", "<= 2"),
            ({"max_tokens": 0}, "max_tokens", ">= 1"),
            ({"max_tokens": 5, "max_completion_tokens": 5}, "max_completion_tokens", "one of them"),
            ({"model": ""}, "model", "length"),
            ({"model": "gpt_a/"}, "model", "HANDLER/MODEL"),
            ({"model": "/gpt-4o"}, "model", "HANDLER/MODEL"),
            ({"n": 0}, "n", ">= 1"),
            ({"modalities": ["text", "audio"]}, "modalities", "not supported"),
            ({"audio": {"voice": "x"}}, "audio", "not supported"),
            ({"functions": [{"name": "f"}]}, "functions", "tools"),
            ({"function_call": "auto"}, "function_call", "tool_choice"),
            ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
            ({"zzz": 1}, "zzz", "unknown field"),
            ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
            ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown field"),
            ({"tools": [{"type": "web_search"}]}, "tools[0]", "not supported"),
            ({"tools": [{"type": "function"}]}, "tools[0].function", "is missing"),
            ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ],
    )
    def test_an_error_names_the_field(self, fields: dict[str, Any], param: str, text: str) -> None:
        with pytest.raises(InvalidInput) as raised:
            decode_request(request(**fields), IgnoredFields("refuse")).to_chat()
        assert raised.value.param == param
        assert text in raised.value.message

    def test_a_wrong_field_is_named_beside_fields_that_are_left_out(self) -> None:
        with pytest.raises(InvalidInput) as raised:
            decode_request(request(store=True, zzz=1, temperature="hot"))
        assert raised.value.param == "temperature"
        assert "got 'str'" in raised.value.message

    @pytest.mark.parametrize("body", [b"", b"[]", b"5", b"{", b'{"model": "\xff"}', b"[" * 100_000, b'{"n": 1e999}'])
    def test_a_body_that_is_not_a_request_is_invalid_input(self, body: bytes) -> None:
        with pytest.raises(InvalidInput):
            decode_request(body)

    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
    def test_any_json_is_decoded_or_invalid_input(self, value: Any) -> None:
        """In any field."""
        for name in ("messages", "tools", "stop", "stream_options", "n", "audio", "store", "other"):
            try:
                decode_request(request(**{name: value})).to_chat()
            except InvalidInput as error:
                assert error.param  # noqa: PT017 - both outcomes are right


class TestTranslation:
    """Requests as handlers get them."""

    def test_fields_without_effect_are_accepted(
        self,
    ) -> None:
        """Fields of the table with values that ask for nothing are never refused."""
        table = {name: field for name, field in FIELDS.items() if name.isidentifier()}
        ignored = IgnoredFields("refuse")
        neutral = {name: field.neutral[0] if field.neutral else None for name, field in table.items()}
        decoded = decode_request(request(**neutral, seed=None, stop=None), ignored)
        assert ignored.names == []
        assert decoded.to_chat().chat == chat.ChatRequest(messages=[chat.UserMessage(content="hello")])

    @pytest.mark.parametrize("mode", ["auto", "required"])
    def test_allowed_tools_are_the_only_ones(self, mode: str) -> None:
        tools = [{"type": "function", "function": {"name": name}} for name in ("look", "write")]
        tools.append({"type": "custom", "custom": {"name": "patch"}})
        allowed = [{"type": "function", "function": {"name": "look"}}, {"type": "custom", "custom": {"name": "patch"}}]
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
        translated = decode_request(request(tools=tools, tool_choice=choice)).to_chat().chat
        assert [tool.function.name for tool in translated.tools or ()] == ["look", "patch"]
        assert translated.tool_choice == mode

    @pytest.mark.parametrize("kind", ["function", "custom", "allowed_tools"])
    def test_a_tool_choice_without_its_tools_names_the_missing_field(self, kind: str) -> None:
        with pytest.raises(InvalidInput, match=rf"^tool_choice\.{kind} is missing$"):
            decode_request(request(tool_choice={"type": kind})).to_chat()

    def test_all_fields_are_translated(
        self,
    ) -> None:
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
        assert split_model(decoded.model).handler == "gpt_a"
        # As the worker decodes it.
        translated = msgspec.json.decode(msgspec.json.encode(decoded.to_chat().chat), type=chat.ChatRequest)
        assert translated == chat.ChatRequest(
            model="openai/gpt-4o",
            messages=[
                chat.SystemMessage(content="be brief"),
                chat.UserMessage(content=[chat.TextPart(text="see")]),
            ],
            max_tokens=7,
            max_completion_tokens=7,
            stop=["END"],
            tools=[chat.Tool(function=chat.FunctionSpec(name="look", parameters={"type": "object"}))],
            tool_choice=chat.NamedToolChoice(function=chat.NamedFunction(name="look")),
            response_format=chat.JsonObjectFormat(),
            temperature=1.0,
        )

    def test_a_response_of_the_sdk_can_be_sent_back(
        self,
    ) -> None:
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
        decoded = decode_request(request(messages=[USER, echoed, result]))
        translated = msgspec.json.decode(msgspec.json.encode(decoded.to_chat().chat), type=chat.ChatRequest)
        call = chat.ToolCall(id="call_1", function=chat.FunctionCall(name="look", arguments="{}"))
        assert translated.messages[1:] == [
            chat.AssistantMessage(tool_calls=[call]),
            chat.ToolMessage(tool_call_id="call_1", content="seen"),
        ]


SIGNED = [
    chat.ReasoningPart(text="Hm. Well.", signature="s", format="anthropic"),
    chat.ReasoningPart(encrypted="e1", format="anthropic"),
    chat.ReasoningPart(text="So.", encrypted="e2", format="openai"),
    chat.ReasoningPart(text="Yes.", signature="t", format="own"),
]
"""Reasoning whose provider needs it back."""
DETAILS = [
    {"type": "reasoning.text", "text": "Hm. Well.", "signature": "s", "format": "anthropic-claude-v1", "index": 0},
    {"type": "reasoning.encrypted", "data": "e1", "format": "anthropic-claude-v1", "index": 1},
    {"type": "reasoning.summary", "summary": "So.", "format": "openai-responses-v1", "index": 2},
    {"type": "reasoning.encrypted", "data": "e2", "format": "openai-responses-v1", "index": 2},
    {"type": "reasoning.text", "text": "Yes.", "signature": "t", "format": "own", "index": 3},
]


class TestReasoningDetails:
    """Signed and encrypted reasoning, which clients such as pi send back in `reasoning_details`."""

    def test_a_stream_has_them_at_the_end_of_each_part(self) -> None:
        chunks = chunks_of(
            chat.ReasoningChunk(text="Hm. "),
            chat.ReasoningChunk(text="Well."),
            chat.ReasoningChunk(signature="s", format="anthropic"),
            chat.ReasoningChunk(encrypted="e1", format="anthropic"),
            chat.ReasoningChunk(text="So."),
            chat.ReasoningChunk(encrypted="e2", format="openai"),
            chat.ReasoningChunk(text="Yes.", signature="t", format="own"),
        )
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert [detail for delta in deltas for detail in delta.get("reasoning_details", ())] == DETAILS
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm. Well.So.Yes."

    def test_a_whole_response_has_them(self) -> None:
        content: list[Any] = [*SIGNED, chat.TextPart(text="Hi")]
        response = chat.ChatResponse(content=content, finish_reason="stop", usage=None)
        encoded = msgspec.to_builtins(completion(response, completion_id="c", created=1, model="m"))
        assert encoded["choices"][0]["message"]["reasoning_details"] == DETAILS

    def test_reasoning_that_no_provider_needs_has_none(self) -> None:
        chunks = chunks_of(chat.ReasoningChunk(text="Hm."))
        assert not any("reasoning_details" in chunk["choices"][0]["delta"] for chunk in chunks)

    def test_a_client_sends_them_back(self) -> None:
        echoed = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm.", "reasoning_details": DETAILS}
        (_, message, _) = decode_request(request(messages=[USER, echoed, USER])).to_chat().chat.messages
        assert isinstance(message, chat.AssistantMessage)
        assert message.reasoning == SIGNED

    def test_details_of_other_servers_are_taken(self) -> None:
        details = [
            {"type": "reasoning.text", "text": "Hm.", "signature": None, "id": "r1", "format": None, "index": 0},
            {"type": "reasoning.server_tool_call", "id": "r2"},
            {"type": "reasoning.summary", "summary": "So."},
        ]
        echoed = {"role": "assistant", "content": "Hi", "reasoning_details": details}
        (_, message, _) = decode_request(request(messages=[USER, echoed, USER])).to_chat().chat.messages
        assert isinstance(message, chat.AssistantMessage)
        assert message.reasoning == [chat.ReasoningPart(text="Hm."), chat.ReasoningPart(text="So.")]


class TestStream:
    """Streams as clients get them."""

    def test_it_starts_with_the_role_and_ends_with_the_finish_reason(
        self,
    ) -> None:
        chunks = chunks_of(
            chat.TextChunk(text="a"),
            chat.ModelChunk(model="real"),
            chat.TextChunk(text="b"),
            chat.FinishChunk(reason="length"),
        )
        assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
            {"role": "assistant", "content": ""},
            {"content": "a"},
            {"content": "b"},
            {},
        ]
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "length"]
        assert [chunk["model"] for chunk in chunks] == ["requested", "requested", "real", "real"]
        assert all("usage" not in chunk for chunk in chunks)
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}

    def test_usage_has_a_chunk_of_its_own_on_demand(
        self,
    ) -> None:
        usage = chat.Usage(prompt_tokens=3, completion_tokens=2)
        chunks = chunks_of(
            chat.TextChunk(text="a"),
            chat.FinishChunk(reason="stop"),
            chat.UsageChunk(usage=usage),
            include_usage=True,
        )
        assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 3
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}

    def test_an_empty_stream_has_a_proper_end(
        self,
    ) -> None:
        chunks = chunks_of()
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]

    def test_the_parts_of_a_tool_call_have_its_index(
        self,
    ) -> None:
        chunks = chunks_of(
            chat.ToolCallChunk(index=0, id="c1", name="look", arguments="{"),
            chat.ToolCallChunk(index=0, arguments="}"),
            chat.FinishChunk(reason="tool_calls"),
        )
        assert [chunk["choices"][0]["delta"].get("tool_calls") for chunk in chunks] == [
            None,
            [{"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": "{"}}],
            [{"index": 0, "function": {"arguments": "}"}}],
            None,
        ]
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"

    def test_a_refusal_has_its_words_whole_and_streamed(
        self,
    ) -> None:
        chunks = chunks_of(chat.RefusalChunk(text="no"), chat.FinishChunk(reason="content_filter"))
        assert chunks[1]["choices"][0]["delta"] == {"refusal": "no"}
        response = chat.ChatResponse(content=[chat.RefusalPart(text="no")], finish_reason="content_filter", usage=None)
        whole = json.loads(msgspec.json.encode(completion(response, completion_id="1", created=1, model="m")))
        assert whole["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": "no"}
        assert "usage" not in whole
