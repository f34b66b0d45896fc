"""Requests and responses of OpenAI's Responses API; OpenAI's own types read the responses."""

from __future__ import annotations

import functools
import json
from typing import Any

import msgspec
import pytest
from pydantic import TypeAdapter

from handler_host.chat import types as chat
from handler_host.chat.conversion import to_chunks
from handler_host.plugin.errors import HandlerCrashed, InvalidInput, UpstreamRateLimited
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.openai_responses.encoder import ResponseEncoder
from handler_host.protocols.openai_responses.requests import FIELDS, decode_request
from handler_host.protocols.openai_responses.routes import ResponseEvents

USER = {"role": "user", "content": "hello"}
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "a cat"}
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}


@functools.cache
def event_type() -> TypeAdapter[Any]:
    """Return OpenAI's own type, imported with the first test: each process that collects tests would pay for it."""
    from openai.types.responses import ResponseStreamEvent

    return TypeAdapter(ResponseStreamEvent)


def request(**fields: Any) -> bytes:
    """Return the body of a request that is valid except for ``fields``."""
    whole = {"model": "gpt_a", "input": "hello", **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def messages_of(*items: Any, **fields: Any) -> list[Any]:
    """Return the messages that items become."""
    messages = decode_request(request(input=list(items), **fields)).to_chat().chat.messages
    builtins: list[Any] = msgspec.to_builtins(messages)
    return builtins


def encoder_for(**fields: Any) -> ResponseEncoder:
    return ResponseEncoder(request_id="r1", created=1, request=decode_request(request(**fields)))


def events_of(*chunks: chat.ChatChunk, **fields: Any) -> list[dict[str, Any]]:
    """Return the events of a stream, as a client reads them."""
    stream = ResponseEvents(encoder_for(**fields))
    return read([event for chunk in chunks for event in stream.events(chunk)] + stream.last())


def read(lines: list[bytes]) -> list[dict[str, Any]]:
    """Return the data of events, after OpenAI's own types have read it."""
    events = []
    for line in lines:
        name, _, text = line.decode().partition("\ndata: ")
        data = json.loads(text)
        assert name == f"event: {data['type']}"
        event_type().validate_python(data)
        events.append(data)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


class TestValidation:
    """Requests that are refused, with the path to the field."""

    @pytest.mark.parametrize(
        ("fields", "param", "text"),
        [
            ({"input": ...}, "input", "is missing"),
            ({"input": ""}, "input", "at least one"),
            ({"input": []}, "input", "at least one"),
            ({"input": 5}, "input", "got 'int'"),
            ({"model": ...}, "model", "is missing"),
            ({"model": "gpt_a/"}, "model", "HANDLER/MODEL"),
            ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "user, assistant, system"),
            ({"input": [USER, {"content": "x"}]}, "input[1].role", "is missing"),
            ({"input": [{"role": "user"}]}, "input[0].content", "is missing"),
            ({"input": [{**USER, "mood": "good"}]}, "input[0].mood", "unknown field"),
            ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "stores nothing"),
            ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0]", "not supported"),
            (
                {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
                "input[0].content[0].file_id",
                "stores no files",
            ),
            (
                {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f", "image_url": None}]}]},
                "input[0].content[0].file_id",
                "stores no files",
            ),
            (
                {"input": [CALL, {**RESULT, "output": [{"type": "input_image", "file_id": "f"}]}]},
                "input[1].output[0].file_id",
                "stores no files",
            ),
            (
                {"input": [{"role": "user", "content": [{"type": "input_image", "detail": "low"}]}]},
                "input[0].content[0].image_url",
                "is missing",
            ),
            (
                {"input": [{"role": "user", "content": [{"type": "input_file", "filename": "f"}]}]},
                "input[0].content[0].file_data",
                "stores no files",
            ),
            (
                {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a cat"}]}]},
                "input[0].content[0].image_url",
                "data: URL",
            ),
            (
                {"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]},
                "input[0].content[0].type",
                "message of the user",
            ),
            (
                {"input": [{"role": "system", "content": [{"type": "input_image", "image_url": "https://x"}]}]},
                "input[0].content[0].type",
                "must be text",
            ),
            ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name", "is missing"),
            ({"input": [USER, RESULT]}, "input[1].call_id", "no earlier function_call"),
            ({"input": [CALL, {**RESULT, "output": None}]}, "input[1].output", "is missing"),
            ({"previous_response_id": "resp_1"}, "previous_response_id", "stores nothing"),
            ({"conversation": "conv_1"}, "conversation", "stores nothing"),
            ({"prompt": {"id": "x"}}, "prompt", "stores nothing"),
            ({"background": True}, "background", "stream"),
            ({"include": ["file_search_call.results"]}, "include", "not supported"),
            ({"reasoning": {"context": "all_turns"}}, "reasoning.context", "not supported"),
            ({"truncation": "auto"}, "truncation", "not supported"),
            ({"max_tool_calls": 3}, "max_tool_calls", "not supported"),
            ({"tools": [{"type": "web_search"}]}, "tools[0]", "not supported"),
            (
                {"tools": [TOOL], "tool_choice": {"type": "file_search"}},
                "tool_choice.type",
                "built-in tools are unsupported",
            ),
            ({"tool_choice": "sometimes"}, "tool_choice", "none, auto, required"),
            ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_schema"),
            ({"max_output_tokens": 0}, "max_output_tokens", ">= 1"),
            ({"temperature": 3}, "temperature", "<= 2"),
            ({"stream_options": {"include_obfuscation": False}}, "stream_options", "stream: true"),
            ({"max_tokens": 5}, "max_tokens", "max_output_tokens"),
            ({"messages": [USER]}, "messages", "unknown field"),
        ],
    )
    def test_an_error_names_the_field(self, fields: dict[str, Any], param: str, text: str) -> None:
        with pytest.raises(InvalidInput) as raised:
            decode_request(request(**fields), IgnoredFields("refuse")).to_chat()
        assert raised.value.param == param
        assert text in raised.value.message

    def test_an_error_of_a_handler_names_the_clients_field(
        self,
    ) -> None:
        form = {"type": "json_schema", "name": "s", "schema": {}}
        items = [USER, CALL, {**CALL, "call_id": "c2"}, RESULT, {**RESULT, "call_id": "c2"}]
        translation = decode_request(
            request(input=items, instructions="Be brief.", tools=[TOOL], text={"format": form})
        ).to_chat()
        for theirs, ours in [
            ("messages", "input"),
            ("messages[0].content", "instructions"),
            ("messages[1].content[0].image_url.url", "input[0]"),
            ("messages[2].tool_calls[1]", "input[1]"),
            ("messages[4].tool_call_id", "input[4]"),
            ("tools[0].function.parameters.type", "tools[0].parameters.type"),
            ("tool_choice.function.name", "tool_choice.name"),
            ("max_tokens", "max_output_tokens"),
            ("response_format", "text.format"),
            ("response_format.json_schema.schema.type", "text.format.schema.type"),
            ("user", "user"),
        ]:
            error = translation.with_client_path(InvalidInput(f"{theirs}: cannot be", param=theirs))
            assert (error.param, error.message) == (ours, f"{ours}: cannot be")


class TestTranslation:
    """Requests as handlers get them."""

    def test_fields_without_effect_are_accepted(
        self,
    ) -> None:
        table = {name: field for name, field in FIELDS.items() if name.isidentifier()}
        neutral = {name: field.neutral[-1] if field.neutral else None for name, field in table.items()}
        translated = decode_request(request(**neutral), IgnoredFields("refuse")).to_chat().chat
        assert translated == chat.ChatRequest(messages=[chat.UserMessage(content="hello")])

    def test_all_fields_are_translated(
        self,
    ) -> None:
        schema = {"type": "object"}
        translated = (
            decode_request(
                request(
                    model="gpt_a/some-model",
                    instructions="Be brief.",
                    temperature=0.5,
                    top_p=0.9,
                    max_output_tokens=7,
                    tools=[TOOL],
                    tool_choice={"type": "function", "name": "look"},
                    parallel_tool_calls=False,
                    text={"format": {"type": "json_schema", "name": "s", "schema": schema, "strict": True}},
                    user="u",
                )
            )
            .to_chat()
            .chat
        )
        assert translated == chat.ChatRequest(
            messages=[chat.SystemMessage(content="Be brief."), chat.UserMessage(content="hello")],
            model="some-model",
            temperature=0.5,
            top_p=0.9,
            max_tokens=7,
            max_completion_tokens=7,
            tools=[chat.Tool(function=chat.FunctionSpec(name="look", parameters={"type": "object"}, strict=True))],
            tool_choice=chat.NamedToolChoice(function=chat.NamedFunction(name="look")),
            parallel_tool_calls=False,
            response_format=chat.JsonSchemaFormat(json_schema=chat.JsonSchema(name="s", schema=schema, strict=True)),
            user="u",
        )

    def test_items_become_messages(
        self,
    ) -> None:
        image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
        assert messages_of(
            {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Look."}, image]},
            CALL,
            {**CALL, "call_id": "c2", "arguments": '{"a": 1}'},
            RESULT,
            {**RESULT, "call_id": "c2", "output": [{"type": "input_text", "text": "a dog"}]},
            {"role": "assistant", "content": "A cat and a dog."},
            USER,
        ) == [
            {"role": "system", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image_url", "image_url": {"url": image["image_url"], "detail": "low"}},
                ],
            },
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
                    {"id": "c2", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}},
                ],
            },
            {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
            {"role": "tool", "content": "a dog", "tool_call_id": "c2"},
            {"role": "assistant", "content": "A cat and a dog."},
            {"role": "user", "content": "hello"},
        ]

    @pytest.mark.parametrize("calls_first", [False, True])
    def test_a_response_that_is_sent_back_is_one_message(self, calls_first: bool) -> None:
        response = chat.ChatResponse(
            content=[chat.TextPart(text="I look."), chat.ToolCallPart(id="c1", name="look", arguments="{}")],
            finish_reason="tool_calls",
            usage=None,
        )
        output = json.loads(msgspec.json.encode(encoder_for().whole(response)))["output"]
        if calls_first:
            output.reverse()
        assistant, tool = messages_of(USER, *output, RESULT)[1:]
        assert assistant["content"] == "I look."
        assert [call["id"] for call in assistant["tool_calls"]] == ["c1"]
        assert tool["content"] == "a cat"

    @pytest.mark.parametrize("is_streamed", [False, True])
    def test_signatures_of_calls_come_back(self, is_streamed: bool) -> None:
        """Gemini's thought signatures: calls of this API have no field for them. Codex lost them on gpt_c."""
        parts: list[chat.ResponsePart] = [
            chat.ReasoningPart(text="Hm.", signature="s", format="anthropic"),
            chat.TextPart(text="I look."),
            chat.ToolCallPart(id="c1", name="look", arguments="{}", signature="c2ln"),
            chat.ToolCallPart(id="c2", name="look", arguments="{}"),
        ]
        response = chat.ChatResponse(content=parts, finish_reason="tool_calls", usage=None)
        if is_streamed:
            output = events_of(*to_chunks(response))[-1]["response"]["output"]
        else:
            output = json.loads(msgspec.json.encode(encoder_for().whole(response)))["output"]
        assert [item["type"] for item in output if item["type"] != "reasoning"] == ["message", *["function_call"] * 2]
        assistant = messages_of(USER, *output, RESULT, {**RESULT, "call_id": "c2"})[1]
        assert [call.get("signature") for call in assistant["tool_calls"]] == ["c2ln", None]
        assert [part["signature"] for part in assistant["reasoning"]] == ["s"]

    def test_a_signature_without_its_call_goes_to_no_other_call(self) -> None:
        """A client may leave out a call that it has not run."""
        call = chat.ToolCallPart(id="c0", name="look", arguments="{}", signature="c2ln")
        response = chat.ChatResponse(content=[call], finish_reason="tool_calls", usage=None)
        signature, _ = json.loads(msgspec.json.encode(encoder_for().whole(response)))["output"]
        messages = messages_of(USER, signature, USER, CALL, RESULT)
        assert [message["role"] for message in messages] == ["user", "user", "assistant", "tool"]
        assert "signature" not in messages[2]["tool_calls"][0]


class TestWholeResponse:
    """Whole responses as clients get them."""

    def test_it_is_one_of_openais(
        self,
    ) -> None:
        response = chat.ChatResponse(
            content=[chat.TextPart(text="Hello")],
            finish_reason="stop",
            usage=chat.Usage(prompt_tokens=5, completion_tokens=2),
            model="served",
        )
        from openai.types.responses import Response

        validated = Response.model_validate_json(
            msgspec.json.encode(encoder_for(instructions="Be brief.", tools=[TOOL], store=True).whole(response)),
            strict=True,
        )
        assert (validated.status, validated.output_text, validated.model) == ("completed", "Hello", "served")
        assert validated.usage is not None
        assert (validated.usage.input_tokens, validated.usage.output_tokens, validated.usage.total_tokens) == (5, 2, 7)
        assert (validated.instructions, validated.error, validated.incomplete_details) == ("Be brief.", None, None)
        assert json.loads(msgspec.json.encode(encoder_for(store=True).whole(response)))["store"] is False

    @pytest.mark.parametrize(
        ("finish", "status", "reason"),
        [
            ("stop", "completed", None),
            ("tool_calls", "completed", None),
            ("length", "incomplete", "max_output_tokens"),
            ("content_filter", "incomplete", "content_filter"),
        ],
    )
    def test_finish_reasons_become_a_status(self, finish: Any, status: str, reason: str | None) -> None:
        response = encoder_for().whole(
            chat.ChatResponse(content=[chat.TextPart(text="He")], finish_reason=finish, usage=None)
        )
        assert response.status == response.output[0].status == status
        assert (response.incomplete_details.reason if response.incomplete_details else None) == reason
        *_, last = events_of(chat.TextChunk(text="He"), chat.FinishChunk(reason=finish))
        assert last["type"] == f"response.{status}"
        assert last["response"]["status"] == status


class TestStream:
    """Streams as clients get them."""

    def test_the_events_have_openais_order(
        self,
    ) -> None:
        events = events_of(
            chat.ModelChunk(model="served"),
            chat.TextChunk(text="Hel"),
            chat.TextChunk(text="lo"),
            chat.FinishChunk(reason="stop"),
            chat.UsageChunk(usage=chat.Usage(prompt_tokens=5, completion_tokens=2, total_tokens=7)),
        )
        assert names(events) == [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
        assert (events[0]["response"]["status"], events[0]["response"]["output"]) == ("in_progress", [])
        assert [event["delta"] for event in events if "delta" in event] == ["Hel", "lo"]
        assert events[6]["text"] == events[7]["part"]["text"] == events[8]["item"]["content"][0]["text"] == "Hello"
        assert events[2]["item"]["id"] == events[4]["item_id"] == events[8]["item"]["id"]
        assert events[2]["item"]["content"] == []
        whole = chat.ChatResponse(
            content=[chat.TextPart(text="Hello")],
            finish_reason="stop",
            usage=chat.Usage(prompt_tokens=5, completion_tokens=2, total_tokens=7),
            model="served",
        )
        assert events[-1]["response"] == json.loads(msgspec.json.encode(encoder_for().whole(whole)))

    def test_text_refusal_and_two_tool_calls_stay_apart(
        self,
    ) -> None:
        events = events_of(
            chat.TextChunk(text="I"),
            chat.RefusalChunk(text="No"),
            chat.ToolCallChunk(index=0, id="c1", name="look"),
            chat.ToolCallChunk(index=1, id="c2", name="go"),
            chat.ToolCallChunk(index=0, arguments='{"a"'),
            chat.ToolCallChunk(index=1, arguments="{}"),
            chat.ToolCallChunk(index=0, arguments=": 1}"),
            chat.TextChunk(text=" see"),
            chat.FinishChunk(reason="tool_calls"),
        )
        deltas = [(event["output_index"], event["delta"]) for event in events if "delta" in event]
        assert deltas == [(0, "I"), (0, "No"), (1, '{"a"'), (2, "{}"), (1, ": 1}"), (0, " see")]
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert [item["type"] for item in done] == ["message", "function_call", "function_call"]
        assert [part.get("text") or part["refusal"] for part in done[0]["content"]] == ["I see", "No"]
        assert [(item["call_id"], item["name"], item["arguments"]) for item in done[1:]] == [
            ("c1", "look", '{"a": 1}'),
            ("c2", "go", "{}"),
        ]
        arguments = [event for event in events if event["type"] == "response.function_call_arguments.done"]
        assert [(event["name"], event["arguments"]) for event in arguments] == [("look", '{"a": 1}'), ("go", "{}")]
        assert events[-1]["response"]["output"] == done

    def test_an_empty_stream_has_a_proper_end(
        self,
    ) -> None:
        assert names(events_of()) == ["created", "in_progress", "completed"]

    def test_an_error_ends_a_failed_response_with_the_text_so_far(
        self,
    ) -> None:
        stream = ResponseEvents(encoder_for())
        lines = stream.events(chat.TextChunk(text="Hel"))
        *_, last = read(lines + stream.failed(HandlerCrashed("the worker has died"), "r1"))
        assert last["type"] == "response.failed"
        assert last["response"]["status"] == "failed"
        assert last["response"]["error"] == {
            "code": "server_error",
            "message": "the worker has died (handler_crashed, request r1)",
        }
        assert last["response"]["output"][0]["content"][0]["text"] == "Hel"
        (*_, failed) = read(ResponseEvents(encoder_for()).failed(UpstreamRateLimited("slow down"), "r1"))
        assert failed["response"]["error"]["code"] == "rate_limit_exceeded"
