"""Requests, responses and errors of Anthropic's messages."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host import chat
from handler_host.plugin.errors import BY_CODE, InvalidInput, UpstreamRateLimited
from handler_host.protocols.anthropic.encoder import EventEncoder
from handler_host.protocols.anthropic.errors import error_body
from handler_host.protocols.anthropic.messages import FIELDS
from handler_host.protocols.anthropic.requests import decode_count, decode_message
from handler_host.protocols.anthropic.responses import message
from handler_host.protocols.fields import IgnoredFields

USER = {"role": "user", "content": "hello"}
CALL = {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": "x"}}
RESULT = {"type": "tool_result", "tool_use_id": "call_1", "content": "a cat"}
PIXEL = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def request(**fields: Any) -> bytes:
    """Return the body of a request that is valid except for ``fields``."""
    whole = {"model": "gpt_b", "max_tokens": 9, "messages": [USER], **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def translated(**fields: Any) -> chat.ChatRequest:
    """Return the chat request as the worker decodes it."""
    _, translation = decode_message(request(**fields))
    return msgspec.json.decode(msgspec.json.encode(translation.chat), type=chat.ChatRequest)


def message_of(content: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


def events_of(*chunks: chat.ChatChunk) -> list[Any]:
    """Return the data of a stream's events; each event must have its type as its name."""
    encoder = EventEncoder(message_id="msg_1", model="requested")
    data = []
    for lines in [event for chunk in chunks for event in encoder.events(chunk)] + encoder.last():
        name, text = lines.decode().split("\n")
        data.append(json.loads(text.removeprefix("data: ")))
        assert name == f"event: {data[-1]['type']}"
    return data


class TestValidation:
    """Requests that are refused, with the path to the field."""

    @pytest.mark.parametrize(
        ("fields", "param", "text"),
        [
            ({"messages": ...}, "messages", "is missing"),
            ({"model": ...}, "model", "is missing"),
            ({"max_tokens": ...}, "max_tokens", "is missing"),
            ({"max_tokens": 0}, "max_tokens", ">= 1"),
            ({"messages": []}, "messages", "length >= 1"),
            ({"messages": [message_of("x", "robot")]}, "messages[0].role", "user, assistant or system"),
            ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
            ({"messages": [message_of(5)]}, "messages[0].content", "got 'int'"),
            ({"messages": [message_of([{"type": "document"}])]}, "messages[0].content[0].source", "is missing"),
            (
                {"messages": [message_of([{"type": "thinking"}], "assistant")]},
                "messages[0].content[0].thinking",
                "is missing",
            ),
            ({"messages": [message_of([CALL])]}, "messages[0].content[0].type", "in the message of its role"),
            ({"messages": [message_of([RESULT])]}, "messages[0].content[0].tool_use_id", "no earlier message"),
            (
                {"messages": [message_of([{"type": "text", "text": "x", "citations": [{"type": "page_location"}]}])]},
                "messages[0].content[0].citations",
                "not supported",
            ),
            (
                {"messages": [message_of([{"type": "image", "source": {"type": "file", "file_id": "f"}}])]},
                "messages[0].content[0].source.type",
                "base64 or url",
            ),
            (
                {"messages": [message_of([{"type": "image", "source": {"type": "url", "url": "a cat"}}])]},
                "messages[0].content[0].source.url",
                "https?",
            ),
            (
                {"messages": [message_of([PIXEL | {"source": PIXEL["source"] | {"media_type": "image/tiff"}}])]},  # type: ignore[operator]
                "messages[0].content[0].source.media_type",
                "image/webp",
            ),
            ({"temperature": 1.5}, "temperature", "<= 1"),
            ({"top_p": "much"}, "top_p", "got 'str'"),
            ({"thinking": {"type": "deep"}}, "thinking.type", "between_tools or disabled"),
            ({"context_management": {"edits": [{"type": "x"}]}}, "context_management", "not supported"),
            ({"output_config": {"format": {"type": "regex"}}}, "output_config.format.type", "json_schema"),
            ({"output_format": {"type": "json_schema"}}, "output_format.schema", "is missing"),
            ({"mcp_servers": [{"url": "x"}]}, "mcp_servers", "not supported"),
            ({"tools": [{"type": "web_search_20260209", "name": "web_search"}]}, "tools[0]", "not supported"),
            ({"tools": [{"type": "bash", "name": "x", "input_schema": {}}]}, "tools[0]", "not supported"),
            (
                {"tools": [{"name": "x", "input_schema": {}, "defer_loading": True}]},
                "tools[0].defer_loading",
                "leave it",
            ),
            ({"tool_choice": {"type": "some"}}, "tool_choice.type", "auto, any, tool or none"),
            ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "is missing"),
            ({"system": [{"type": "image"}]}, "system[0].type", "text"),
            ({"model": "gpt_b/"}, "model", "HANDLER/MODEL"),
            ({"max_tokns": 3}, "max_tokns", "did you mean 'max_tokens'?"),
        ],
    )
    def test_an_error_names_the_field(self, fields: dict[str, Any], param: str, text: str) -> None:
        with pytest.raises(InvalidInput) as raised:
            decode_message(request(**fields), IgnoredFields("refuse"))
        assert raised.value.param == param
        assert text in raised.value.message

    @pytest.mark.parametrize("body", [b"", b"[]", b"5", b"{", b'{"model": "\xff"}', b"[" * 100_000])
    def test_a_body_that_is_not_a_request_is_invalid_input(self, body: bytes) -> None:
        with pytest.raises(InvalidInput):
            decode_message(body)

    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
    def test_any_json_is_decoded_or_invalid_input(self, value: Any) -> None:
        """In any field."""
        for name in ("messages", "system", "tools", "tool_choice", "stop_sequences", "thinking", "metadata", "other"):
            try:
                decode_message(request(**{name: value}))
            except InvalidInput as error:
                assert error.param  # noqa: PT017 - both outcomes are right

    def test_a_token_count_takes_no_other_fields(
        self,
    ) -> None:
        body, translation = decode_count(request(max_tokens=..., system="Be brief."))
        assert body.model == "gpt_b"
        assert len(translation.chat.messages) == 2
        with pytest.raises(InvalidInput) as raised:
            decode_count(request(), IgnoredFields("refuse"))
        assert raised.value.param == "max_tokens"

    def test_an_error_of_a_handler_names_the_clients_field(
        self,
    ) -> None:
        messages = [USER, message_of([CALL], "assistant"), message_of([RESULT, PIXEL])]
        tools = [{"name": "look", "input_schema": {"type": "object"}}]
        _, translation = decode_message(request(system="Be brief.", messages=messages, tools=tools))
        for theirs, ours in [
            ("messages[0].content", "system"),
            ("messages[1].content", "messages[0]"),
            ("messages[3].content", "messages[2].content[0]"),
            ("messages[4].content[0].image_url.url", "messages[2]"),
            ("stop", "stop_sequences"),
            ("response_format", "output_config.format"),
            ("response_format.json_schema.schema.type", "output_config.format.schema.type"),
            ("tool_choice.function.name", "tool_choice.name"),
            ("tools", "tools"),
            ("tools[0].function.parameters.properties.a", "tools[0].input_schema.properties.a"),
            ("tools[0].function.name", "tools[0].name"),
            ("tools[0]", "tools[0]"),
        ]:
            error = translation.with_client_path(InvalidInput(f"{theirs}: cannot be", param=theirs))
            assert (error.param, error.message) == (ours, f"{ours}: cannot be")


class TestTranslation:
    """Requests as handlers get them."""

    def test_fields_without_effect_are_accepted(
        self,
    ) -> None:
        table = {name: field for name, field in FIELDS.items() if name.isidentifier()}
        neutral = {name: field.neutral[0] if field.neutral else None for name, field in table.items()}
        assert translated(**neutral, system="", tools=[], stop_sequences=[]) == chat.ChatRequest(
            messages=[chat.UserMessage(content="hello")], max_tokens=9
        )

    def test_all_fields_are_translated(
        self,
    ) -> None:
        schema = {"type": "object", "properties": {"at": {"type": "string"}}}
        cached = {"cache_control": {"type": "ephemeral"}}
        assert translated(
            model="gpt_b/claude/x",
            system=[{"type": "text", "text": "Be brief.", **cached}],
            messages=[
                message_of([{"type": "text", "text": "see", "citations": None}, PIXEL]),
                message_of([{"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}]),
                message_of("And be kind.", "system"),
            ],
            tools=[{"name": "look", "description": "d", "input_schema": schema, "strict": True, **cached}],
            tool_choice={"type": "tool", "name": "look", "disable_parallel_tool_use": True},
            output_config={"format": {"type": "json_schema", "schema": schema}},
            stop_sequences=["END"],
            temperature=0.5,
            top_p=0.9,
            stream=True,
        ) == chat.ChatRequest(
            model="claude/x",
            messages=[
                chat.SystemMessage(content=[chat.TextPart(text="Be brief.", cache_control={"type": "ephemeral"})]),
                chat.UserMessage(
                    content=[
                        chat.TextPart(text="see"),
                        chat.ImagePart(image_url=chat.ImageUrl(url="data:image/png;base64,AAAA")),
                    ]
                ),
                chat.UserMessage(content=[chat.ImagePart(image_url=chat.ImageUrl(url="https://x/y.png"))]),
                chat.SystemMessage(content="And be kind."),
            ],
            tools=[
                chat.Tool(
                    function=chat.FunctionSpec(name="look", description="d", parameters=schema, strict=True),
                    cache_control={"type": "ephemeral"},
                ),
            ],
            tool_choice=chat.NamedToolChoice(function=chat.NamedFunction(name="look")),
            parallel_tool_calls=False,
            response_format=chat.JsonSchemaFormat(json_schema=chat.JsonSchema(name="answer", schema=schema)),
            max_tokens=9,
            stop=["END"],
            temperature=0.5,
            top_p=0.9,
        )

    @pytest.mark.parametrize(("theirs", "ours"), [("auto", "auto"), ("any", "required"), ("none", "none")])
    def test_tool_choices(self, theirs: str, ours: str) -> None:
        assert translated(tool_choice={"type": theirs}).tool_choice == ours

    def test_a_response_is_sent_back_with_the_results_of_its_calls(
        self,
    ) -> None:
        """In the form of the SDK: the results are in the user's next message, before its text."""
        response = [
            {"type": "text", "text": "I look."},
            {**CALL, "caller": None, "toolset_name": None},
        ]
        results = [{**RESULT, "is_error": False}, {"type": "text", "text": "And?"}]
        call = chat.ToolCall(id="call_1", function=chat.FunctionCall(name="look", arguments='{"at":"x"}'))
        assert translated(messages=[USER, message_of(response, "assistant"), message_of(results)]).messages[1:] == [
            chat.AssistantMessage(content=[chat.TextPart(text="I look.")], tool_calls=[call]),
            chat.ToolMessage(content="a cat", tool_call_id="call_1"),
            chat.UserMessage(content=[chat.TextPart(text="And?")]),
        ]


def test_a_search_result_is_text_for_every_handler() -> None:
    """In a message and in the result of a tool: a model that does not see it makes its response up."""
    marker = {"type": "ephemeral"}
    source = {"title": "Cats", "source": "https://example.com/", "content": [{"type": "text", "text": "They purr."}]}
    block = {"type": "search_result", **source, "cache_control": marker}
    history = [USER, message_of([CALL], "assistant"), message_of([{**RESULT, "content": [block]}, block])]
    _, result, after = translated(messages=history).messages[-3:]
    texts = [chat.TextPart(text="Cats (https://example.com/):"), chat.TextPart(text="They purr.", cache_control=marker)]
    assert (result.content, after.content) == (texts, texts)


def test_notes_between_calls_turn_the_reasoning_off() -> None:
    ignored = IgnoredFields()
    _, translated_request = decode_message(request(thinking={"type": "between_tools"}), ignored)
    assert translated_request.chat.reasoning == chat.ReasoningOptions(budget_tokens=0)
    assert ignored.names == ["thinking.type"]


def whole(**fields: Any) -> Any:
    response = chat.ChatResponse(**{"content": [], "finish_reason": "stop", "usage": None, **fields})
    return json.loads(msgspec.json.encode(message(response, message_id="msg_1", model="requested")))


class TestWholeResponse:
    """Whole responses as clients get them."""

    def test_it_is_a_message(
        self,
    ) -> None:
        content = [chat.TextPart(text="hi"), chat.ToolCallPart(id="c1", name="look", arguments='{"a": 1}')]
        usage = chat.Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
        assert whole(content=content, finish_reason="tool_calls", usage=usage, model="real") == {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "real",
            "content": [
                {"type": "text", "text": "hi"},
                {"type": "tool_use", "id": "c1", "name": "look", "input": {"a": 1}},
            ],
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "stop_details": None,
            "usage": {"input_tokens": 3, "output_tokens": 2},
        }

    @pytest.mark.parametrize("arguments", ['{"a"', "[1]"])
    def test_a_call_that_was_cut_off_is_in_the_response(self, arguments: str) -> None:
        """With what it has: an error would make SDKs repeat, and pay for, the same response."""
        (block,) = whole(content=[chat.ToolCallPart(id="c1", name="look", arguments=arguments)])["content"]
        assert list(block["input"]) == ["arguments"]


class TestStream:
    """Streams as clients get them, and what they share with whole responses."""

    @pytest.mark.parametrize(
        ("finish", "reason"),
        [("stop", "end_turn"), ("length", "max_tokens"), ("tool_calls", "tool_use"), ("content_filter", "refusal")],
    )
    def test_finish_reasons(self, finish: Any, reason: str) -> None:
        assert whole(finish_reason=finish)["stop_reason"] == reason
        assert events_of(chat.FinishChunk(reason=finish))[-2]["delta"]["stop_reason"] == reason

    def test_the_stop_sequence_that_ended_it_is_named(self) -> None:
        stop = {"stop_reason": "stop_sequence", "stop_sequence": "###"}
        response = whole(finish_reason="stop", stop_sequence="###")
        assert {name: response[name] for name in stop} == stop
        assert events_of(chat.FinishChunk(reason="stop", stop_sequence="###"))[-2]["delta"] == stop

    def test_a_refusal_has_its_words_whole_and_streamed(
        self,
    ) -> None:
        refused = {"stop_reason": "refusal", "stop_sequence": None}
        details = {"type": "refusal", "category": None, "explanation": "I will not"}
        response = whole(content=[chat.RefusalPart(text="I will not")])
        assert {name: response[name] for name in refused} == refused
        assert (response["content"], response["stop_details"]) == ([], details)
        events = events_of(
            chat.RefusalChunk(text="I will"), chat.RefusalChunk(text=" not"), chat.FinishChunk(reason="stop")
        )
        assert events[-2]["delta"] == {**refused, "stop_details": details}

    def test_the_events_have_anthropics_order(
        self,
    ) -> None:
        usage = chat.Usage(prompt_tokens=3, completion_tokens=2)
        events = events_of(
            chat.ModelChunk(model="real"),
            chat.TextChunk(text="a"),
            chat.TextChunk(text="b"),
            chat.ToolCallChunk(index=0, id="c1", name="look", arguments="{"),
            chat.ToolCallChunk(index=0, arguments="}"),
            chat.ToolCallChunk(index=1, id="c2", name="smell"),
            chat.FinishChunk(reason="tool_calls"),
            chat.UsageChunk(usage=usage),
        )
        assert [(event["type"], event.get("index")) for event in events] == [
            ("message_start", None),
            ("ping", None),
            ("content_block_start", 0),
            ("content_block_delta", 0),
            ("content_block_delta", 0),
            ("content_block_stop", 0),
            ("content_block_start", 1),
            ("content_block_delta", 1),
            ("content_block_delta", 1),
            ("content_block_stop", 1),
            ("content_block_start", 2),
            ("content_block_stop", 2),
            ("message_delta", None),
            ("message_stop", None),
        ]
        assert events[0]["message"]["model"] == "real"
        assert events[0]["message"]["content"] == []
        assert events[3]["delta"] == {"type": "text_delta", "text": "a"}
        assert events[6]["content_block"] == {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
        assert events[7]["delta"] == {"type": "input_json_delta", "partial_json": "{"}
        assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
        assert events[-2]["usage"] == {"input_tokens": 3, "output_tokens": 2}

    def test_an_empty_stream_has_a_proper_end(
        self,
    ) -> None:
        assert [event["type"] for event in events_of()] == ["message_start", "ping", "message_delta", "message_stop"]


class TestSignaturesOfCalls:
    """Gemini's thought signatures: calls of Anthropic have no field for them."""

    PARTS: ClassVar[list[chat.ResponsePart]] = [
        chat.ReasoningPart(text="Hm.", signature="s", format="anthropic"),
        chat.ToolCallPart(id="c1", name="look", arguments="{}", signature="c2ln"),
        chat.ToolCallPart(id="c2", name="look", arguments="{}"),
    ]

    def check(self, content: list[Any]) -> None:
        assert [block["type"] for block in content] == ["thinking", "redacted_thinking", "tool_use", "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": call, "content": "x"} for call in ("c1", "c2")]
        history = translated(messages=[message_of("Hi"), message_of(content, "assistant"), message_of(results)])
        response = history.messages[1]
        assert isinstance(response, chat.AssistantMessage)
        assert [call.signature for call in response.tool_calls or ()] == ["c2ln", None]
        assert [part.signature for part in response.reasoning or ()] == ["s"]

    def test_they_come_back_from_a_whole_response(self) -> None:
        self.check(whole(content=self.PARTS)["content"])

    def test_they_come_back_from_a_stream(self) -> None:
        chunks = list(chat.to_chunks(chat.ChatResponse(content=self.PARTS, finish_reason="tool_calls", usage=None)))
        content: list[Any] = []
        for event in events_of(*chunks):
            if event["type"] == "content_block_start":
                content.append(event["content_block"])
            elif event["type"] == "content_block_delta" and "signature" in event["delta"]:
                content[event["index"]]["signature"] = event["delta"]["signature"]
        self.check(content)


class TestErrors:
    """Errors in Anthropic's envelope."""

    @pytest.mark.parametrize("code", BY_CODE)
    def test_every_code_has_the_envelope(self, code: str) -> None:
        error = json.loads(error_body(BY_CODE[code]("no", param="x"), "r1"))
        assert (error["type"], error["request_id"], error["error"]["message"]) == ("error", "r1", "no")
        assert error["error"]["details"] == {"error_code": code, "param": "x"}
        assert error["error"]["type"].endswith(("_error", "_too_large"))

    def test_a_rate_limit_has_its_retry_after(
        self,
    ) -> None:
        error = json.loads(error_body(UpstreamRateLimited("slow down", retry_after=7.0), "r1"))["error"]
        assert error["type"] == "rate_limit_error"
        assert error["details"]["retry_after"] == 7.0
