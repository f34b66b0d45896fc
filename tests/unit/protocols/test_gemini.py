"""Requests, responses and errors of Gemini's generateContent."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler_host import chat
from handler_host._internal.field_path import FieldPath
from handler_host.chat.conversion import accumulate
from handler_host.plugin.errors import InvalidInput, QueueFull
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini.encoder import ChunkEncoder, response
from handler_host.protocols.gemini.errors import error_body
from handler_host.protocols.gemini.requests import FIELDS, decode_count, decode_request
from handler_host.protocols.gemini.schemas import json_schema
from handler_host.testing.chat_conformance import PIXEL

USER = {"role": "user", "parts": [{"text": "hello"}]}
LOOK = {"name": "look", "description": "Look.", "parameters": {"type": "OBJECT"}}
CALL = {"functionCall": {"name": "look", "args": {"at": 1}}}
RESULT = {"functionResponse": {"name": "look", "response": {"seen": "a cat"}}}


def request(**fields: Any) -> bytes:
    """Return the body of a request that is valid except for ``fields``."""
    whole = {"contents": [USER], **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def translated(model: str = "gpt_a", **fields: Any) -> chat.ChatRequest:
    """Return the chat request as the worker decodes it."""
    translation = decode_request(request(**fields)).to_chat(model)
    return msgspec.json.decode(msgspec.json.encode(translation.chat), type=chat.ChatRequest)


def as_json(value: object) -> Any:
    return json.loads(msgspec.json.encode(value))


def chunks_of(*chunks: chat.ChatChunk) -> list[Any]:
    encoder = ChunkEncoder(response_id="r1", model="requested")
    return [as_json(data) for chunk in chunks for data in encoder.chunks(chunk)] + [as_json(encoder.last())]


GOOGLE = "https://generativelanguage.googleapis.com"


class TestValidation:
    """Requests that are refused, with the path to the field."""

    @pytest.mark.parametrize(
        ("fields", "param", "text"),
        [
            ({"contents": ...}, "contents", "is missing"),
            ({"contents": []}, "contents", "length >= 1"),
            ({"contents": "hello"}, "contents", "expected 'array'"),
            (
                {"contents": [{"role": "robot", "parts": [{"text": "x"}]}]},
                "contents[0].role",
                "user, model or function",
            ),
            ({"contents": [{"role": "system", "parts": [{"text": "x"}]}]}, "contents[0].role", "systemInstruction"),
            ({"contents": [{"role": "user", "parts": []}]}, "contents[0].parts", "at least one"),
            ({"contents": [{"role": "user", "parts": [{}]}]}, "contents[0].parts[0]", "functionResponse"),
            ({"contents": [{"role": "user", "parts": [{"text": 5}]}]}, "contents[0].parts[0].text", "got 'int'"),
            (
                {"contents": [{"parts": [{"executableCode": {}}]}]},
                "contents[0].parts[0].executableCode",
                "unknown field",
            ),
            ({"contents": [{"role": "user", "parts": [RESULT]}]}, "contents[0].parts[0].functionResponse", "'look'"),
            (
                {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "&&"}}]}]},
                "contents[0].parts[0].inlineData.data",
                "base64",
            ),
            (
                {"contents": [{"parts": [{"fileData": {"fileUri": "gs://bucket/x"}}]}]},
                "contents[0].parts[0].fileData.fileUri",
                "https",
            ),
            ({"systemInstruction": {"parts": [RESULT]}}, "systemInstruction.parts[0]", "text"),
            ({"generationConfig": {"temperature": "hot"}}, "generationConfig.temperature", "got 'str'"),
            ({"generationConfig": {"temperature": 3}}, "generationConfig.temperature", "<= 2"),
            ({"generation_config": {"max_output_tokens": 0}}, "generationConfig.maxOutputTokens", ">= 1"),
            ({"generationConfig": {"candidateCount": 0}}, "generationConfig.candidateCount", ">= 1"),
            (
                {"generationConfig": {"responseMimeType": "text/x-other"}},
                "generationConfig.responseMimeType",
                "text/plain",
            ),
            (
                {"generationConfig": {"responseMimeType": "text/x.enum"}},
                "generationConfig.responseSchema",
                "an enum of words",
            ),
            (
                {"generationConfig": {"responseMimeType": "text/x.enum", "responseJsonSchema": {"type": "string"}}},
                "generationConfig.responseJsonSchema",
                "an enum of words",
            ),
            ({"generationConfig": {"responseModalities": ["AUDIO"]}}, "generationConfig.responseModalities[0]", "TEXT"),
            (
                {"generationConfig": {"responseSchema": {"type": "STRING"}}},
                "generationConfig.responseSchema",
                "application/json",
            ),
            ({"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch", "not supported"),
            ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name", "is missing"),
            (
                {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "THING"}}]}]},
                "tools[0].functionDeclarations[0].parameters.type",
                "OBJECT",
            ),
            (
                {"toolConfig": {"functionCallingConfig": {"mode": "MUST"}}},
                "toolConfig.functionCallingConfig.mode",
                "ANY",
            ),
            (
                {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}}},
                "toolConfig.functionCallingConfig.allowedFunctionNames",
                "unknown function 'f'",
            ),
            ({"cachedContent": "cachedContents/1"}, "cachedContent", "send the contents"),
            (
                {"contents": [{"parts": [{"fileData": {"fileUri": f"{GOOGLE}/v1beta/files/a"}}]}]},
                "contents[0].parts[0].fileData.fileUri",
                "stores no files",
            ),
            ({"generatonConfig": {}}, "generatonConfig", "did you mean 'generationConfig'?"),
        ],
    )
    def test_an_error_names_the_field(self, fields: dict[str, Any], param: str, text: str) -> None:
        with pytest.raises(InvalidInput) as raised:
            decode_request(request(**fields), IgnoredFields("refuse")).to_chat("gpt_a")
        assert raised.value.param == param
        assert text in raised.value.message

    @pytest.mark.parametrize("body", [b"", b"[]", b"5", b"{", b'{"model": "\xff"}', b"[" * 100_000])
    def test_a_body_that_is_not_a_request_is_invalid_input(self, body: bytes) -> None:
        with pytest.raises(InvalidInput):
            decode_request(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["parts", "text", "type", "args", "x_y"]), inner),
    max_leaves=6,
)


class TestAnyJson:
    @given(JSON)
    def test_it_is_decoded_or_invalid_input(self, value: Any) -> None:
        """In any field."""
        declared = [{"functionDeclarations": [{"name": "f", "parameters": value}]}]
        places: list[dict[str, Any]] = [{name: value} for name in ("contents", "tools", "generationConfig", "other")]
        for fields in [*places, {"tools": declared}, {"contents": [{"parts": value}]}, {"system_instruction": value}]:
            try:
                translated(**fields)
            except InvalidInput as error:
                assert error.param  # noqa: PT017 - both outcomes are right


WHOLE: dict[str, Any] = {
    "systemInstruction": {"role": "user", "parts": [{"text": "be "}, {"text": "brief"}]},
    "contents": [
        {"role": "user", "parts": [{"text": "see"}, {"inlineData": {"mimeType": "image/png", "data": PIXEL}}]},
        {
            "role": "model",
            "parts": [{"text": "hm", "thought": True}, {"text": "I look."}, CALL | {"thoughtSignature": "AA"}],
        },
        {"role": "function", "parts": [RESULT]},
    ],
    "tools": [{"functionDeclarations": [LOOK]}],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
    "generationConfig": {
        "temperature": 1,
        "topP": 0.5,
        "maxOutputTokens": 7,
        "stopSequences": ["END"],
        "seed": 3,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
        "responseMimeType": "application/json",
    },
}


def in_snake_case(value: Any) -> Any:
    if isinstance(value, list):
        return [in_snake_case(item) for item in value]
    if isinstance(value, dict):
        spelt = {name: "".join(f"_{c.lower()}" if c.isupper() else c for c in name) for name in value}
        return {spelt[name]: in_snake_case(item) for name, item in value.items()}
    return value


class TestReasoningOfOtherProviders:
    """Gemini CLI sends back the signatures of calls, but no thoughts; other clients send both."""

    CHUNKS = (
        chat.ReasoningChunk(text="I look "),
        chat.ReasoningChunk(text="first.", signature="c2ln", format="anthropic"),
        chat.ReasoningChunk(encrypted="ZW5j", format="anthropic"),
        chat.TextChunk(text="I look."),
        chat.ToolCallChunk(index=0, id="c1", name="look", arguments='{"at":1}'),
        chat.ToolCallChunk(index=1, id="c2", name="look", arguments="{}"),
        chat.FinishChunk(reason="tool_calls"),
    )

    @pytest.mark.parametrize("keeps_thoughts", [False, True])
    def test_it_comes_back_with_the_first_call(self, keeps_thoughts: bool) -> None:
        parts = [part for data in chunks_of(*self.CHUNKS) for part in data["candidates"][0]["content"]["parts"]]
        history = {"role": "model", "parts": [part for part in parts if keeps_thoughts or not part.get("thought")]}
        assistant = translated(contents=[USER, history, {"role": "user", "parts": [RESULT, RESULT]}]).messages[1]
        assert isinstance(assistant, chat.AssistantMessage)
        reasoning = assistant.reasoning or []
        assert "".join(part.text for part in reasoning) == "I look first."
        opaque = [(part.signature or part.encrypted, part.format) for part in reasoning]
        assert [data for data in opaque if data[0]] == [("c2ln", "anthropic"), ("ZW5j", "anthropic")]
        assert [call.signature for call in assistant.tool_calls or ()] == [None, None]

    def test_without_thoughts_text_and_signature_are_one_part(self) -> None:
        parts = chunks_of(*self.CHUNKS)[-1]["candidates"][0]["content"]["parts"]
        history = {"role": "model", "parts": parts}
        assistant = translated(contents=[USER, history, {"role": "user", "parts": [RESULT, RESULT]}]).messages[1]
        assert isinstance(assistant, chat.AssistantMessage)
        assert assistant.reasoning == [
            chat.ReasoningPart(text="I look first.", signature="c2ln", format="anthropic"),
            chat.ReasoningPart(encrypted="ZW5j", format="anthropic"),
        ]

    def test_reasoning_without_opaque_data_adds_nothing_to_the_call(self) -> None:
        chunks = (chat.ReasoningChunk(text="hm"), *self.CHUNKS[3:])
        calls = chunks_of(*chunks)[-1]["candidates"][0]["content"]["parts"]
        assert [call.get("thoughtSignature") for call in calls] == [None, None]


class TestTranslation:
    """Requests as handlers get them."""

    @pytest.mark.parametrize("fields", [WHOLE, in_snake_case(WHOLE)], ids=["camelCase", "snake_case"])
    def test_all_fields_are_translated(self, fields: dict[str, Any]) -> None:
        call = chat.ToolCall(id="call_1", function=chat.FunctionCall(name="look", arguments='{"at":1}'), signature="AA")
        assert translated("gpt_a/openai/gpt-4o", **fields) == chat.ChatRequest(
            model="openai/gpt-4o",
            messages=[
                chat.SystemMessage(content="be brief"),
                chat.UserMessage(
                    content=[
                        chat.TextPart(text="see"),
                        chat.ImagePart(image_url=chat.ImageUrl(url=f"data:image/png;base64,{PIXEL}")),
                    ]
                ),
                chat.AssistantMessage(content="I look.", tool_calls=[call], reasoning=[chat.ReasoningPart(text="hm")]),
                chat.ToolMessage(content='{"seen":"a cat"}', tool_call_id="call_1"),
            ],
            temperature=1.0,
            top_p=0.5,
            max_tokens=7,
            stop=["END"],
            seed=3,
            tools=[
                chat.Tool(function=chat.FunctionSpec(name="look", description="Look.", parameters={"type": "object"}))
            ],
            tool_choice=chat.NamedToolChoice(function=chat.NamedFunction(name="look")),
            response_format=chat.JsonObjectFormat(),
            presence_penalty=0.1,
            frequency_penalty=0.2,
        )

    def test_fields_without_effect_are_accepted(
        self,
    ) -> None:
        table = {name: field for name, field in FIELDS.items() if name.isidentifier() and name != "model"}
        neutral: dict[str, Any] = {name: field.neutral[0] if field.neutral else None for name, field in table.items()}
        config = {"candidateCount": 1, "responseMimeType": "text/plain", "responseModalities": ["TEXT"]}
        request = translated(**neutral, generationConfig=config, tools=[])
        assert request == chat.ChatRequest(messages=[chat.UserMessage(content="hello")])

    def test_the_clients_own_names_are_kept(
        self,
    ) -> None:
        """The arguments of a call and the properties of a schema, in a request in snake case."""
        request = translated(
            contents=[
                USER,
                {
                    "role": "model",
                    "parts": [{"function_call": {"name": "f", "args": {"user_name": {"first_name": 1}}}}],
                },
            ],
            tools=[
                {
                    "function_declarations": [
                        {"name": "f", "parameters": {"type": "OBJECT", "properties": {"user_name": {"type": "STRING"}}}}
                    ]
                }
            ],
        )
        assert request.messages[1].tool_calls[0].function.arguments == '{"user_name":{"first_name":1}}'  # type: ignore[union-attr, index]
        assert request.tools[0].function.parameters["properties"] == {"user_name": {"type": "string"}}  # type: ignore[index]

    @pytest.mark.parametrize(
        ("config", "choice", "offered"),
        [
            ({"mode": "AUTO"}, "auto", ["a", "b", "c"]),
            ({"mode": 3}, "none", ["a", "b", "c"]),
            ({"mode": "ANY"}, "required", ["a", "b", "c"]),
            ({"mode": 2, "allowedFunctionNames": ["a", "c"]}, "required", ["a", "c"]),
            ({"mode": "VALIDATED"}, "auto", ["a", "b", "c"]),
            ({"mode": "VALIDATED", "allowedFunctionNames": ["a"]}, "auto", ["a"]),
            ({}, None, ["a", "b", "c"]),
        ],
    )
    def test_tool_choices(self, config: dict[str, Any], choice: str, offered: list[str]) -> None:
        tools = [{"functionDeclarations": [{"name": "a"}, {"name": "b"}]}, {"functionDeclarations": [{"name": "c"}]}]
        request = translated(tools=tools, toolConfig={"functionCallingConfig": config})
        assert request.tool_choice == choice
        assert [tool.function.name for tool in request.tools or ()] == offered

    @pytest.mark.parametrize("kind", [0, "TYPE_UNSPECIFIED"])
    def test_a_schema_without_a_type_is_one_of_any_type(self, kind: Any) -> None:
        function = {"name": "f", "parameters": {"type": "OBJECT", "properties": {"a": {"type": kind, "title": "A"}}}}
        tools = translated(tools=[{"functionDeclarations": [function]}]).tools or []
        assert tools[0].function.parameters == {"type": "object", "properties": {"a": {"title": "A"}}}

    def test_result_is_matched_by_id_then_by_name(
        self,
    ) -> None:
        def call(**fields: Any) -> dict[str, Any]:
            return {"functionCall": {"name": "f", **fields}}

        def result(name: str, value: int, **fields: Any) -> dict[str, Any]:
            return {"functionResponse": {"name": name, "response": {"v": value}, **fields}}

        request = translated(
            contents=[
                USER,
                {"role": "model", "parts": [call(), call(id="x"), call(name="g")]},
                {"role": "user", "parts": [result("g", 3), result("f", 2, id="x"), result("f", 1), {"text": "and?"}]},
            ]
        )
        calls = request.messages[1].tool_calls or []  # type: ignore[union-attr]
        results = {message.tool_call_id: message.content for message in request.messages[2:5]}  # type: ignore[union-attr]
        assert [results[call.id] for call in calls] == ['{"v":1}', '{"v":2}', '{"v":3}']
        assert request.messages[5] == chat.UserMessage(content="and?")

    def test_results_with_other_names_are_matched_in_order(self) -> None:
        """Semantic Kernel writes ``tools-weather`` into the call and ``tools__weather`` into the response."""
        calls = [{"functionCall": {"name": f"tools-{name}", "args": {}}} for name in ("weather", "time")]
        results = [
            {"functionResponse": {"name": f"tools__{name}", "response": {"v": name}, **fields}}
            for name, fields in (("weather", {}), ("time", {"id": "of-the-client"}))
        ]
        messages = translated(
            contents=[USER, {"role": "model", "parts": calls}, {"role": "function", "parts": results}]
        ).messages
        expected = [call.id for call in messages[1].tool_calls or ()]  # type: ignore[union-attr]
        assert [message.tool_call_id for message in messages[2:]] == expected  # type: ignore[union-attr]
        assert [message.content for message in messages[2:]] == ['{"v":"weather"}', '{"v":"time"}']

    def test_a_result_that_is_repeated_with_its_id_counts_once(self) -> None:
        """Gemini CLI 0.61 sends each result twice when a session is resumed."""
        call = {"functionCall": {**CALL["functionCall"], "id": "c1"}}
        result = {"functionResponse": {**RESULT["functionResponse"], "id": "c1"}}
        contents = [USER, {"role": "model", "parts": [call]}, {"role": "user", "parts": [result, result]}]
        kinds = [type(message) for message in translated(contents=contents).messages]
        assert kinds == [chat.UserMessage, chat.AssistantMessage, chat.ToolMessage]

    def test_a_second_result_of_a_call_is_refused(self) -> None:
        """It belongs to no other call that is open."""
        call = {"functionCall": {"name": "listen", "id": "c2"}}
        for fields, seen in (({}, "a cat"), ({}, "a dog"), ({"id": "c1"}, "a dog")):
            first = {"functionCall": {**CALL["functionCall"], **fields}}
            result = {"functionResponse": {**RESULT["functionResponse"], **fields}}
            second = {"functionResponse": {**result["functionResponse"], "response": {"seen": seen}}}
            model, user = {"role": "model", "parts": [first, call]}, {"role": "user", "parts": [result, second]}
            with pytest.raises(InvalidInput, match=r"contents\[2\].parts\[1\].functionResponse"):
                translated(contents=[USER, model, user])

    def test_an_error_of_a_handler_names_the_clients_field(
        self,
    ) -> None:
        """The path of the chat becomes the path of the client."""
        model = {"role": "model", "parts": [CALL]}
        body = request(systemInstruction={"parts": [{"text": "x"}]}, contents=[USER, model, {"parts": [RESULT]}, USER])
        named = [{"functionDeclarations": [{"name": name}]} for name in ("look", "smell")]
        translation = decode_request(request(**json.loads(body), tools=named)).to_chat("gpt_a")
        for param, own in (
            ("messages[0].content", "systemInstruction"),
            ("messages[3].content", "contents[2]"),
            ("messages[4].content[0].image_url.url", "contents[3]"),
            ("seed", "generationConfig.seed"),
            ("tools[1].function.parameters.x", "tools[1].functionDeclarations[0].parameters.x"),
            ("tools[9].function.name", "tools[9].function.name"),
            ("response_format.json_schema.schema.type", "generationConfig.responseSchema.type"),
        ):
            error = translation.with_client_path(InvalidInput(f"{param}: is not wanted", param=param))
            assert (error.param, error.message) == (own, f"{own}: is not wanted")

    @pytest.mark.parametrize(
        "body",
        [
            {"contents": [USER]},
            {"generateContentRequest": {"model": "models/x", "contents": [USER]}},
            {"generate_content_request": {"contents": [USER]}},
        ],
    )
    def test_a_token_count_takes_contents_or_a_whole_request(self, body: dict[str, Any]) -> None:
        translation = decode_count(json.dumps(body).encode()).to_chat("gpt_a")
        assert translation.chat == chat.ChatRequest(messages=[chat.UserMessage(content="hello")])
        with pytest.raises(InvalidInput, match="contents is missing"):
            decode_count(b"{}")

    def test_schemas_become_json_schema(
        self,
    ) -> None:
        schema = {
            "type": 6,
            "title": "T",
            "properties": {
                "kind": {"type": "STRING", "format": "enum", "enum": ["a"], "nullable": True},
                "list": {
                    "type": "array",
                    "items": {"type": "INTEGER", "format": "int64"},
                    "maxItems": "3",
                    "min_items": 1,
                },
                "either": {"anyOf": [{"type": "STRING"}, {"type": "NUMBER"}], "nullable": True},
            },
            "required": ["kind"],
            "propertyOrdering": ["kind", "list"],
        }
        assert json_schema(schema, FieldPath(None, "s")) == {
            "type": "object",
            "title": "T",
            "properties": {
                "kind": {"type": ["string", "null"], "enum": ["a", None]},
                "list": {
                    "type": "array",
                    "items": {"type": "integer", "format": "int64"},
                    "maxItems": 3,
                    "minItems": 1,
                },
                "either": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]},
            },
            "required": ["kind"],
        }


class TestResponses:
    """Whole responses and streams as clients get them."""

    def test_a_stream_has_the_text_and_one_last_chunk_with_the_rest(
        self,
    ) -> None:
        usage = chat.Usage(prompt_tokens=3, completion_tokens=2)
        chunks = chunks_of(
            chat.ModelChunk(model="real"),
            chat.TextChunk(text="a"),
            chat.ToolCallChunk(index=0, id="c1", name="look", arguments='{"at"'),
            chat.ToolCallChunk(index=0, arguments=": 1}"),
            chat.FinishChunk(reason="tool_calls"),
            chat.UsageChunk(usage=usage),
        )
        call = {"functionCall": {"id": "c1", "name": "look", "args": {"at": 1}}}
        ids = {"modelVersion": "real", "responseId": "r1"}
        assert chunks == [
            {"candidates": [{"content": {"parts": [{"text": "a"}], "role": "model"}, "index": 0}], **ids},
            {
                "candidates": [{"content": {"parts": [call], "role": "model"}, "finishReason": "STOP", "index": 0}],
                "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
                **ids,
            },
        ]

    @pytest.mark.parametrize(
        ("reason", "finish"),
        [("stop", "STOP"), ("length", "MAX_TOKENS"), ("tool_calls", "STOP"), ("content_filter", "SAFETY")],
    )
    def test_a_whole_response_is_one_chunk(self, reason: Any, finish: str) -> None:
        content: list[chat.ResponsePart] = [chat.TextPart(text="a"), chat.RefusalPart(text="I will not")]
        refused = chat.ChatResponse(content=content, finish_reason=reason, usage=None)
        whole = as_json(response(refused, response_id="r1", model="m"))
        assert whole == {
            "candidates": [
                {
                    "content": {"parts": [{"text": "a"}, {"text": "I will not"}], "role": "model"},
                    "finishReason": finish,
                    "index": 0,
                }
            ],
            "modelVersion": "m",
            "responseId": "r1",
        }

    @pytest.mark.parametrize(
        ("texts", "word"), [(('{"val', 'ue": "a"}'), "a"), (('"a"',), "a"), (("a",), "a"), (("[1]",), "[1]"), ((), "")]
    )
    def test_one_of_a_few_words_comes_without_json(self, texts: tuple[str, ...], word: str) -> None:
        chunks: list[chat.ChatChunk] = [*(chat.TextChunk(text=text) for text in texts), chat.FinishChunk(reason="stop")]
        encoder = ChunkEncoder(response_id="r1", model="m", is_enum=True)
        streamed = [*(made for chunk in chunks for made in encoder.chunks(chunk)), encoder.last()]
        whole = response(accumulate(chunks), response_id="r1", model="m", is_enum=True)
        for made in (streamed, [whole]):
            parts = [part for each in made for part in as_json(each)["candidates"][0]["content"]["parts"]]
            assert "".join(part["text"] for part in parts) == word

    def test_a_refusal_in_place_of_a_word_comes_once(self) -> None:
        chunks: list[chat.ChatChunk] = [chat.RefusalChunk(text="I will not"), chat.FinishChunk(reason="stop")]
        encoder = ChunkEncoder(response_id="r1", model="m", is_enum=True)
        streamed = [*(made for chunk in chunks for made in encoder.chunks(chunk)), encoder.last()]
        parts = [part for each in streamed for part in as_json(each)["candidates"][0]["content"]["parts"]]
        assert parts == [{"text": "I will not"}]

    def test_a_call_whose_arguments_are_not_an_object_is_malformed(
        self,
    ) -> None:
        chunks = chunks_of(
            chat.ToolCallChunk(index=0, id="c1", name="look", arguments='{"at": '),
            chat.FinishChunk(reason="tool_calls"),
        )
        (candidate,) = chunks[-1]["candidates"]
        assert (candidate["content"]["parts"], candidate["finishReason"]) == ([], "MALFORMED_FUNCTION_CALL")

    def test_an_error_has_googles_status_and_details(
        self,
    ) -> None:
        shape = json.loads(error_body(QueueFull("no place", retry_after=1.5, param="contents[0]"), "req-1"))["error"]
        assert (shape["code"], shape["message"], shape["status"]) == (429, "no place", "RESOURCE_EXHAUSTED")
        info, bad, retry = shape["details"]
        assert (info["reason"], info["metadata"]) == ("QUEUE_FULL", {"request_id": "req-1"})
        assert bad["fieldViolations"] == [{"field": "contents[0]", "description": "no place"}]
        assert retry == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.500s"}
