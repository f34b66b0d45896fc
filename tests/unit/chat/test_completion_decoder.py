"""Responses in OpenAI's form, from servers that speak it in their own way."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from handler_host.chat import (
    ChatResponse,
    CompletionDecoder,
    FinishChunk,
    ModelChunk,
    ReasoningPart,
    TextChunk,
    TextPart,
    ToolCallChunk,
    Usage,
    accumulate,
    decode_stream,
    finish_reason_of,
    usage_from,
)
from handler_host.plugin import UpstreamError, UpstreamOverloaded


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **fields}


def decode(*documents: Any, tool_names: tuple[str, ...] = ()) -> ChatResponse:
    decoder = CompletionDecoder(tool_names=tool_names)
    return accumulate([*(part for document in documents for part in decoder.chunks(document)), *decoder.last()])


def call(
    index: int | None = 0, call_id: str | None = None, name: str | None = None, arguments: Any = None
) -> dict[str, Any]:
    """A part of a tool call; None is a field that the server leaves out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fields = {key: value for key, value in (("index", index), ("id", call_id)) if value is not None}
    return {**fields, "function": function}


def calls_of(*deltas: dict[str, Any], tool_names: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    chunks = [chunk({"tool_calls": [delta]}) for delta in deltas]
    response = decode(*chunks, chunk({}, "tool_calls"), tool_names=tool_names)
    return [(made.function.name, made.function.arguments) for made in response.tool_calls]


TWO_CALLS: dict[str, list[dict[str, Any]]] = {
    "one index": [call(0, "a", "f", '{"x": 1}'), call(0, "b", "f", '{"x": 2}')],
    "no index": [call(None, "a", "f", '{"x": 1}'), call(None, "b", "f", '{"x": 2}')],
    "no index, no IDs": [call(None, None, "f", '{"x": 1}'), call(None, None, "f", '{"x": 2}')],
    "one index, no IDs": [call(0, None, "f", '{"x": 1}'), call(0, None, "f", '{"x": 2}')],
    "one index, empty IDs": [call(0, "", "f", '{"x": 1}'), call(0, "", "f", '{"x": 2}')],
    "one ID": [call(0, "a", "f", '{"x": 1}'), call(1, "a", "f", '{"x": 2}')],
    "one index, one ID": [call(0, "a", "f", '{"x": 1}'), call(0, "a", "f", '{"x": 2}')],
    "indices from 1": [call(1, "a", "f", '{"x": 1}'), call(2, "b", "f", '{"x": 2}')],
    "interleaved": [call(0, "a", "f", '{"x":'), call(1, "b", "f", '{"x":'), call(0, arguments=" 1}"),
                    call(1, arguments=" 2}")],
    "no index, in parts": [call(None, "a", "f"), call(None, arguments='{"x"'), call(None, arguments=": 1}"),
                           call(None, "b", "f", '{"x": 2'), call(None, arguments="}")],
    "ID and name in each part": [call(0, "a", "f", '{"x"'), call(0, "a", "f", ": 1}"), call(1, "b", "f", '{"x": 2}')],
    "the index counts the parts": [call(0, "a", "f", '{"x"'), call(1, arguments=": 1}"), call(2, "b", "f", '{"x": 2}')],
    "an ID for each part": [call(0, "a1", "f", '{"x"'), call(0, "a2", None, ": 1}"), call(0, "b1", "f", '{"x": 2}')],
    "arguments as objects": [call(0, "a", "f", {"x": 1}), call(1, "b", "f", {"x": 2})],
    "the ID comes later": [call(0, None, "f"), call(0, "a", None, '{"x": 1}'), call(1, "b", "f", '{"x": 2}')],
}  # fmt: skip


class TestToolCalls:
    @pytest.mark.parametrize("name", TWO_CALLS)
    def test_two_calls_stay_apart(self, name: str) -> None:
        assert calls_of(*TWO_CALLS[name]) == [("f", '{"x": 1}'), ("f", '{"x": 2}')]

    def test_a_whole_message_has_one_call_in_each_item(self) -> None:
        calls = [call(0, "a", "f", '{"x": 1}'), call(0, "a", "f", {"x": 2}), call(None, None, "g")]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        response = decode({"choices": [{"message": message, "finish_reason": "stop"}]})
        made = [(made.function.name, made.function.arguments) for made in response.tool_calls]
        assert made == [("f", '{"x": 1}'), ("f", '{"x": 2}'), ("g", "")]
        assert response.finish_reason == "tool_calls"

    def test_a_name_in_parts(self) -> None:
        assert calls_of(call(0, "a", "get_", ""), call(0, None, "time", "{}")) == [("get_time", "{}")]

    @pytest.mark.parametrize("index", [0, None])
    @pytest.mark.parametrize("rest", ["", "1}"])
    def test_arguments_before_the_name(self, index: int | None, rest: str) -> None:
        start = '{"x": 1}'.removesuffix(rest)
        deltas = [call(index, None, None, start), call(index, "a", "f", rest), call(index, "b", "g", "{}")]
        assert calls_of(*deltas) == [("f", '{"x": 1}'), ("g", "{}")]

    def test_arguments_of_two_calls_before_their_names(self) -> None:
        deltas = [call(0, "a", None, "{"), call(1, "b", None, "{}"), call(0, "a", "f", "}"), call(1, "b", "g")]
        assert calls_of(*deltas) == [("f", "{}"), ("g", "{}")]

    def test_a_call_without_a_name_is_an_error(self) -> None:
        with pytest.raises(UpstreamError, match="tool call without a name"):
            calls_of(call(0, "a", None, '{"x": 1}'))

    def test_known_names_are_whole(self) -> None:
        calls = (call(0, None, "now"), call(0, None, "here"))
        assert calls_of(*calls, tool_names=("now", "here")) == [("now", ""), ("here", "")]

    def test_calls_without_arguments(self) -> None:
        calls = (call(0, "a", "f"), call(1, "b", "g", ""), call(None, "c", "h"))
        assert calls_of(*calls) == [("f", ""), ("g", ""), ("h", "")]

    def test_null_in_place_of_arguments(self) -> None:
        calls = (
            call(0, "a", "f", "null"),
            call(1, "b", "g", '{"x":'),
            call(1, None, None, "null"),
            call(1, arguments="}"),
        )
        assert calls_of(*calls) == [("f", ""), ("g", '{"x":null}')]

    def test_function_call_of_old_servers(self) -> None:
        parts = [{"name": "f", "arguments": '{"x"'}, {"arguments": ": 1}"}]
        chunks = [chunk({"function_call": part}) for part in parts]
        response = decode(*chunks, chunk({}, "function_call"))
        assert [(made.function.name, made.function.arguments) for made in response.tool_calls] == [("f", '{"x": 1}')]
        assert response.finish_reason == "tool_calls"

    def test_strings_with_brackets_do_not_end_arguments(self) -> None:
        parts = ['{"x": "}', "{", '\\"', '}"', "}"]
        deltas = [call(0, "a", "f", part) for part in parts]
        assert calls_of(*deltas) == [("f", "".join(parts))]

    def test_the_first_chunk_has_id_and_name(self) -> None:
        decoder = CompletionDecoder()
        assert decoder.chunks(chunk({"tool_calls": [call(0, "a", "f", "")]})) == []
        first = ToolCallChunk(index=0, id="a", name="f", arguments="{")
        assert decoder.chunks(chunk({"tool_calls": [call(0, arguments="{")]})) == [first]

    def test_time_is_linear_if_each_part_repeats_the_name(self) -> None:
        decoder = CompletionDecoder()
        start = time.process_time()
        for _ in range(20_000):
            decoder.chunks(chunk({"tool_calls": [call(0, "a", "f", '{"x": "' * 3)]}))
        assert time.process_time() - start < 10

    def test_time_is_linear_if_the_name_comes_last(self) -> None:
        decoder = CompletionDecoder()
        start = time.process_time()
        for _ in range(10_000):
            decoder.chunks(chunk({"tool_calls": [call(0, "a", None, "x" * 1000)]}))
        (first,) = decoder.chunks(chunk({"tool_calls": [call(0, "a", "f", "")]}))
        assert isinstance(first, ToolCallChunk)
        assert (first.name, len(first.arguments)) == ("f", 10_000_000)
        assert time.process_time() - start < 2  # quadratic code takes 10 s


class TestText:
    @pytest.mark.parametrize(
        "content",
        [
            "Hello",
            [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
            ["Hel", "lo"],
            {"text": "Hello"},
            [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hello"}],
        ],
    )
    def test_content_in_any_form(self, content: Any) -> None:
        assert decode(chunk({"content": content}), chunk({}, "stop")).text == "Hello"

    @pytest.mark.parametrize("message", ["Hello", "lo", ""])
    def test_message_in_place_of_the_last_delta(self, message: str) -> None:
        """Whole, or only what is new."""
        last = {"choices": [{"index": 0, "message": {"content": message}, "finish_reason": "stop"}]}
        deltas = ["Hel"] if message else ["Hel", "lo"]
        assert decode(*(chunk({"content": text}) for text in deltas), last).text == "Hello"

    def test_a_whole_response(self) -> None:
        message = {"role": "assistant", "content": "Hello", "refusal": None}
        response = decode(
            {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}], "usage": {"total_tokens": 3}}
        )
        assert (response.text, response.model, response.usage) == ("Hello", "m", Usage(total_tokens=3))

    @pytest.mark.parametrize(
        "message",
        [
            {"reasoning_content": "hm", "content": "Hello"},
            {"reasoning": "hm", "content": "Hello"},
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "Hello"},
                ]
            },
        ],
    )
    @pytest.mark.parametrize("field", ["delta", "message"])
    def test_reasoning(self, message: Any, field: str) -> None:
        response = decode({"choices": [{field: message, "finish_reason": "stop"}]})
        assert response.content == [ReasoningPart(text="hm"), TextPart(text="Hello")]

    def test_a_second_choice_is_left_out(self) -> None:
        both = {"choices": [{"index": 1, "delta": {"content": "B"}}, {"index": 0, "delta": {"content": "A"}}]}
        second = {"choices": [{"index": 1, "delta": {"content": "C"}, "finish_reason": "length"}]}
        response = decode(both, second, chunk({}, "stop"))
        assert (response.text, response.finish_reason) == ("A", "stop")

    @pytest.mark.parametrize("field", ["stop_reason", "matched_stop"])
    def test_the_stop_sequence_of_vllm_and_sglang(self, field: str) -> None:
        """Only if the request has it: the field may also have a token's number, or another word for the reason."""
        for value, expected in (("END", "END"), ("end_turn", None), (128009, None), (None, None), (["END"], None)):
            decoder = CompletionDecoder(stop=["###", "END"])
            decoder.chunks({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop", field: value}]})
            assert decoder.last() == [FinishChunk(reason="stop", stop_sequence=expected)]

    def test_text_after_the_finish_reason(self) -> None:
        """The last finish reason counts, and a stream has exactly one."""
        decoder = CompletionDecoder()
        documents = [chunk({"content": "a"}), chunk({}, "stop"), chunk({"content": "b"}), chunk({}, "length")]
        chunks = [part for document in documents for part in decoder.chunks(document)] + decoder.last()
        assert chunks == [TextChunk(text="a"), TextChunk(text="b"), FinishChunk(reason="length")]

    @pytest.mark.parametrize("document", [{"choices": [{"delta": {"content": 5}}]}, ["no"], {"choices": ["no"]},
                                          {"choices": "no"}, 5, {"choices": [{"delta": "no"}]}])  # fmt: skip
    def test_another_shape(self, document: Any) -> None:
        with pytest.raises(UpstreamError, match="not one of OpenAI's"):
            CompletionDecoder().chunks(document)

    @pytest.mark.parametrize("document", [{}, {"choices": []}, {"choices": None}, {"choices": [{"delta": None}]}])
    def test_chunks_without_content(self, document: Any) -> None:
        assert CompletionDecoder().chunks(document) == []

    def test_the_model_comes_with_the_first_content(self) -> None:
        decoder = CompletionDecoder()
        assert decoder.chunks(chunk({"role": "assistant", "content": ""}, model="m")) == []
        assert decoder.chunks(chunk({"content": "a"}, model="m")) == [ModelChunk(model="m"), TextChunk(text="a")]


class TestErrors:
    @pytest.mark.parametrize(
        "document",
        [
            {"error": "out of cards"},
            {"error": {"message": "out of cards", "type": "server_error"}},
            {"object": "error", "message": "out of cards"},
            {"detail": "out of cards"},
            {"detail": [{"loc": ["body"], "msg": "out of cards"}]},
            {"message": "out of cards"},
            {"error": {"message": "out of cards"}, "choices": []},
            {"error": {"message": "out of cards"}, "choices": [{"delta": {}, "finish_reason": "error"}]},
            {"error": True, "message": "out of cards"},
            {"choices": [{"error": {"message": "out of cards"}, "delta": {}, "finish_reason": "error"}]},
            {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "out of cards"}},
        ],
    )
    def test_words_of_the_provider(self, document: Any) -> None:
        with pytest.raises(UpstreamError, match="out of cards"):
            CompletionDecoder().chunks(document)

    def test_a_success_of_minimax(self) -> None:
        document = {**chunk({"content": "a"}, "stop"), "base_resp": {"status_code": 0, "status_msg": "success"}}
        assert decode(document).text == "a"

    def test_a_response_without_choices(self) -> None:
        with pytest.raises(UpstreamError, match="out of cards"):
            decode({"oops": "out of cards"}, {"choices": None})

    def test_the_status_in_an_error_counts(self) -> None:
        with pytest.raises(UpstreamOverloaded, match="529 in a response with status 200"):
            CompletionDecoder().chunks({"error": {"message": "busy", "code": 529}})

    def test_a_finish_reason_that_means_a_failure(self) -> None:
        with pytest.raises(UpstreamError, match="error"):
            decode(chunk({"content": "a"}), chunk({}, "error"))


class TestUsage:
    @pytest.mark.parametrize("counts", [(5, 1, 6), (5.0, 1.0, 6.0), ("5", "1", "6.0")])
    def test_numbers_in_any_form(self, counts: tuple[Any, ...]) -> None:
        usage = dict(zip(("prompt_tokens", "completion_tokens", "total_tokens"), counts, strict=True))
        response = decode(chunk({"content": "a"}), chunk({}, "stop", usage=usage))
        assert response.usage == Usage(prompt_tokens=5, completion_tokens=1, total_tokens=6)

    @pytest.mark.parametrize(
        "usage",
        [None, {}, {"prompt_tokens": None}, {"prompt_tokens": 0, "completion_tokens": 0}, "many",
         {"prompt_tokens": -1, "total_tokens": float("nan"), "completion_tokens": "x"}, {"total_tokens": True},
         {"total_tokens": 1e300}, {"total_tokens": "9" * 5000}],
    )  # fmt: skip
    def test_no_counts_are_none_and_not_zeros(self, usage: Any) -> None:
        assert decode(chunk({"content": "a"}), chunk({}, "stop", usage=usage)).usage is None

    def test_zeros_do_not_replace_counts(self) -> None:
        first, last = {"prompt_tokens": 5, "completion_tokens": 1}, {"prompt_tokens": 0, "completion_tokens": 0}
        response = decode(chunk({"content": "a"}, usage=first), chunk({}, "stop", usage=last))
        assert response.usage == Usage(prompt_tokens=5, completion_tokens=1)

    def test_the_place_of_groq(self) -> None:
        response = decode(chunk({"content": "a"}), chunk({}, "stop", x_groq={"usage": {"total_tokens": 3}}))
        assert response.usage == Usage(total_tokens=3)

    def test_names_of_anthropic(self) -> None:
        assert usage_from({"input_tokens": 5, "output_tokens": 1}) == Usage(prompt_tokens=5, completion_tokens=1)

    @pytest.mark.parametrize(
        "fields",
        [
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2}},
            {
                "prompt_tokens": 9,  # LiteLLM: with those of the cache
                "prompt_tokens_details": {"cached_tokens": None, "cache_creation_tokens": 2},
                "cache_read_input_tokens": 4,
                "cache_creation_input_tokens": 2,
            },
            {"prompt_tokens": 9, "prompt_cache_hit_tokens": 4, "cache_creation_input_tokens": 2},
            {"prompt_tokens": 9, "cached_tokens": 4, "cache_creation_input_tokens": 2},
            {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},  # Anthropic: without
        ],
    )
    @pytest.mark.parametrize(
        "details",
        [
            {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}},
            {"output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 3}},
            {"output_tokens": 5, "output_tokens_details": {"thinking_tokens": 3}},
            {"completion_tokens": 5, "completion_tokens_details": None, "reasoning_tokens": 3},
        ],
    )
    def test_tokens_of_the_cache_and_of_reasoning(self, fields: dict[str, Any], details: dict[str, Any]) -> None:
        assert usage_from({**fields, **details}) == Usage(
            prompt_tokens=9, completion_tokens=5, cached_tokens=4, cache_write_tokens=2, reasoning_tokens=3
        )


class TestFinishReasons:
    def test_empty_is_none(self) -> None:
        documents = [chunk({"content": word}, "") for word in ("One", " two")]
        response = decode(*documents, chunk({}, "length"))
        assert (response.text, response.finish_reason) == ("One two", "length")

    @pytest.mark.parametrize("finish", [1, {"reason": "eos"}, True])
    def test_another_type(self, finish: Any) -> None:
        assert decode(chunk({"content": "a"}), chunk({}, finish)).finish_reason == "stop"

    @pytest.mark.parametrize("name", ["", " ", "null", "None", "FINISH_REASON_UNSPECIFIED", None, 5])
    def test_placeholders(self, name: Any) -> None:
        assert finish_reason_of(name) is None

    @pytest.mark.parametrize(
        ("name", "reason"),
        [("stop", "stop"), ("eos", "stop"), ("EOS_TOKEN", "stop"), ("end_turn", "stop"), ("STOP", "stop"),
         ("stop-sequence", "stop"), ("something_new", "stop"),
         ("length", "length"), ("MAX_TOKENS", "length"), ("max_output_tokens", "length"), ("pause_turn", "length"),
         ("output_limit_reached", "length"), ("truncated", "length"),
         ("tool_calls", "tool_calls"), ("function_call", "tool_calls"), ("tool_use", "tool_calls"),
         ("call_functions", "tool_calls"),
         ("SAFETY", "content_filter"), ("refusal", "content_filter"), ("IMAGE_SAFETY", "content_filter"),
         ("content filter", "content_filter"), ("policy_violated", "content_filter")],
    )  # fmt: skip
    def test_words_of_providers(self, name: str, reason: str) -> None:
        assert finish_reason_of(name) == reason

    @pytest.mark.parametrize("name", ["error", "ABORTED", "MALFORMED_FUNCTION_CALL", "insufficient_system_resource",
                                      "UNEXPECTED_TOOL_CALL", "network_error"])  # fmt: skip
    def test_words_for_a_failure(self, name: str) -> None:
        with pytest.raises(UpstreamError, match=name):
            finish_reason_of(name)

    def test_stop_after_tool_calls(self) -> None:
        assert finish_reason_of("stop", has_tool_calls=True) == "tool_calls"
        assert finish_reason_of("length", has_tool_calls=True) == "length"


class TestDecodeStream:
    async def test_a_connection_that_breaks_after_the_finish_reason(self) -> None:
        async def documents() -> AsyncIterator[Any]:
            yield chunk({"content": "a"}, "stop")
            raise ConnectionResetError

        response = accumulate([part async for part in decode_stream(documents(), CompletionDecoder())])
        assert (response.text, response.finish_reason) == ("a", "stop")

    async def test_a_connection_that_breaks_before_it(self) -> None:
        async def documents() -> AsyncIterator[Any]:
            yield chunk({"content": "a"})
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            [part async for part in decode_stream(documents(), CompletionDecoder())]

    async def test_a_connection_that_stays_open_after_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("handler_host.chat.completion_decoder.FINISH_TIMEOUT_S", 0.02)

        async def documents() -> AsyncIterator[Any]:
            yield chunk({"content": "a"}, "stop")
            await asyncio.Event().wait()

        async with asyncio.timeout(10):
            chunks = [part async for part in decode_stream(documents(), CompletionDecoder())]
        assert chunks[-1] == FinishChunk(reason="stop")


def test_documents_are_json() -> None:
    """The corpus above is what a server can send."""
    assert json.loads(json.dumps(TWO_CALLS)) == TWO_CALLS
