"""Several responses to one request: from providers' documents to the clients of each protocol that has them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gpt_c.decoder import ChunkDecoder
from gpt_c.documents import chunks_of
from handler_host.chat import (
    ChatChunk,
    ChatHandler,
    ChatRequest,
    CompletionDecoder,
    FinishChunk,
    LogprobsChunk,
    ReasoningChunk,
    TextChunk,
    TokenLogprob,
    ToolCallChunk,
    Usage,
    UsageChunk,
    UserMessage,
    accumulate,
    to_chunks,
    validate_request,
)
from handler_host.plugin.errors import InvalidInput
from handler_host.plugin.operations import CallInfo
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini.encoder import ChunkEncoder as GeminiEncoder
from handler_host.protocols.gemini.encoder import response as gemini_response
from handler_host.protocols.gemini.requests import decode_request as decode_gemini
from handler_host.protocols.openai.encoder import ChunkEncoder
from handler_host.protocols.openai.legacy_completions import CompletionEncoder, decode_completion
from handler_host.protocols.openai.requests import decode_chat
from handler_host.protocols.openai.responses import completion

CALL = ToolCallChunk(index=0, id="c1", name="look", arguments='{"at": 1}', choice=1)
TOKEN = TokenLogprob(token="He", logprob=-1.0)
CHUNKS: list[ChatChunk] = [
    LogprobsChunk(content=[TOKEN], choice=1),
    TextChunk(text="He", choice=1),
    ReasoningChunk(text="Hm."),
    TextChunk(text="Hi"),
    TextChunk(text="llo", choice=1),
    CALL,
    FinishChunk(reason="tool_calls", choice=1),
    FinishChunk(reason="length"),
    UsageChunk(usage=Usage(prompt_tokens=1, completion_tokens=4)),
]
"""A stream whose two choices are mixed; the second one starts first."""
WHOLE = accumulate(CHUNKS)
OPTIONS: dict[str, Any] = {"completion_id": "c", "created": 0, "model": "m"}


def plain(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def test_each_choice_is_accumulated() -> None:
    first, second = WHOLE.choices
    assert (first.text, first.finish_reason, first.tool_calls, first.logprobs) == ("Hi", "length", [], None)
    assert (second.text, second.finish_reason, second.logprobs) == ("Hello", "tool_calls", [TOKEN])
    assert [call.function.name for call in second.tool_calls] == ["look"]
    assert WHOLE.usage == Usage(prompt_tokens=1, completion_tokens=4)
    assert accumulate(to_chunks(WHOLE)) == WHOLE


def test_a_choice_below_0_is_one_more_response() -> None:
    """A mistake of a plugin: the response must not contain itself."""
    first, second = accumulate([TextChunk(text="a", choice=-1), TextChunk(text="b")]).choices
    assert (first.text, second.text) == ("b", "a")


def test_one_choice_has_the_same_json_as_before() -> None:
    assert plain(TextChunk(text="Hi")) == {"type": "text", "text": "Hi"}
    assert "alternatives" not in plain(accumulate([TextChunk(text="Hi")]))


async def test_each_choice_of_a_handler_is_repaired_and_finished() -> None:
    class Odd(ChatHandler):
        supports = frozenset({"n"})

        async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk | str]:
            for choice, half in ((0, "a\ud83d"), (1, "b\ud83d"), (0, "\ude00"), (1, "!")):
                yield TextChunk(text=half, choice=choice)
            yield FinishChunk(reason="length")
            yield ToolCallChunk(index=0, name="f", arguments="\ud83d", choice=1)

    handler = Odd()
    handler._stream_takes_call = False
    call = CallInfo(request_id="r", operation="chat", streamed=True, deadline=None, log=None)  # type: ignore[arg-type]
    request = ChatRequest(messages=[UserMessage(content="Hi")], n=2)
    first, second = accumulate([chunk async for chunk in handler.chat(request, call)]).choices
    assert (first.text, first.finish_reason) == ("a\U0001f600", "length")
    assert (second.text, second.finish_reason) == ("b\ufffd!", "stop")
    assert second.tool_calls[0].id
    assert second.tool_calls[0].function.arguments == "\ufffd"


def test_an_error_about_a_field_of_one_letter_keeps_its_words() -> None:
    body = b'{"contents": [{"parts": [{"text": "Hi"}]}]}'
    error = InvalidInput("n: not supported by a handler (several)", param="n")
    translated = decode_gemini(body).to_chat("h").with_client_path(error)
    assert translated.message == "generationConfig.candidateCount: not supported by a handler (several)"


@pytest.mark.parametrize("n", [0, 129])
def test_a_number_out_of_range_is_refused(n: int) -> None:
    with pytest.raises(InvalidInput, match="from 1 to 128"):
        validate_request(ChatRequest(messages=[UserMessage(content="Hi")], n=n))


class TestOpenAI:
    """OpenAI's chat completions and completions, from providers and to clients."""

    def test_choices_of_a_stream_are_decoded(self) -> None:
        decoder = CompletionDecoder(choices=2)
        parts: list[dict[str, Any]] = [
            {"index": 1, "delta": {"content": "He"}},
            {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"},
            {"index": 2, "delta": {"content": "not requested"}},
            {"index": 1, "delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}},
        ]
        chunks = [chunk for part in parts for chunk in decoder.chunks({"choices": [part]})]
        chunks += decoder.chunks({"choices": [{"index": 1, "delta": {}, "finish_reason": "tool_calls"}]})
        assert decoder.is_finished
        first, second = accumulate([*chunks, *decoder.last()]).choices
        assert (first.text, first.finish_reason) == ("Hi", "stop")
        assert (second.text, second.finish_reason) == ("He", "tool_calls")
        assert second.tool_calls[0].function.name == "f"

    @pytest.mark.parametrize(
        "numbers",
        [({"index": 0}, {"index": 1}), ({}, {}), ({"index": None}, {"index": None})],
        ids=["numbered", "not numbered", "null"],
    )
    def test_choices_of_a_whole_response_are_decoded(self, numbers: tuple[dict[str, int | None], ...]) -> None:
        messages = [{**number, "message": {"content": text}} for number, text in zip(numbers, "ab", strict=True)]
        decoder = CompletionDecoder(choices=2)
        chunks = decoder.chunks({"choices": [{**message, "finish_reason": "stop"} for message in messages]})
        assert [choice.text for choice in accumulate([*chunks, *decoder.last()]).choices] == ["a", "b"]

    def test_a_server_that_knows_one_choice_only(self) -> None:
        decoder = CompletionDecoder(choices=2)
        chunks = decoder.chunks({"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]})
        assert [choice.text for choice in accumulate([*chunks, *decoder.last()]).choices] == ["a"]

    def test_a_whole_response_has_each_choice(self) -> None:
        first, second = plain(completion(WHOLE, **OPTIONS))["choices"]
        assert (first["index"], first["message"]["content"], first["finish_reason"]) == (0, "Hi", "length")
        assert (second["index"], second["message"]["content"], second["finish_reason"]) == (1, "Hello", "tool_calls")
        assert second["message"]["tool_calls"][0]["function"]["name"] == "look"
        assert (first["logprobs"], second["logprobs"]["content"][0]["token"]) == (None, "He")

    def test_each_chunk_of_a_stream_has_the_index_of_its_choice(self) -> None:
        encoder = ChunkEncoder(**OPTIONS, include_usage=True, custom={"look"})
        chunks = plain([*(made for chunk in CHUNKS for made in encoder.chunks(chunk)), *encoder.last()])
        assert (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"]) == ([], 5)
        for index, (text, reason) in enumerate((("Hi", "length"), ("Hello", "tool_calls"))):
            parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == index]
            assert parts[0]["delta"]["role"] == "assistant"
            assert "".join(part["delta"].get("content", "") for part in parts) == text
            assert [part["finish_reason"] for part in parts if part["finish_reason"]] == [reason]
            assert sum("tool_calls" in part["delta"] for part in parts) == index

    def test_completions_have_each_text(self) -> None:
        encoder = CompletionEncoder(**OPTIONS, include_usage=False)
        whole = plain(encoder.whole(WHOLE))["choices"]
        texts = [(choice["index"], choice["text"], choice["finish_reason"]) for choice in whole]
        assert texts == [(0, "Hi", "length"), (1, "Hello", "stop")]
        chunks = plain([*(made for chunk in CHUNKS for made in encoder.chunks(chunk)), *encoder.last()])
        parts = [(part["index"], part["text"], part["finish_reason"]) for made in chunks for part in made["choices"]]
        assert parts == [(1, "He", None), (0, "Hi", None), (1, "llo", None), (0, "", "length"), (1, "", "stop")]

    @pytest.mark.parametrize(("n", "expected"), [(None, None), (1, None), (3, 3)])
    def test_requests(self, n: int | None, expected: int | None) -> None:
        chat = msgspec.json.encode({"model": "h", "messages": [{"role": "user", "content": "Hi"}], "n": n})
        assert decode_chat(chat, IgnoredFields())[1].chat.n == expected
        prompt = msgspec.json.encode({"model": "h", "prompt": "Hi", "n": n})
        assert decode_completion(prompt, IgnoredFields())[1].chat.n == expected


@pytest.mark.sdks
class TestGemini:
    """Gemini's candidates, from the provider and to clients."""

    def test_candidates_of_a_stream_are_decoded(self) -> None:
        decoder = ChunkDecoder(2)
        parts: list[dict[str, Any]] = [
            {"index": 1, "content": {"parts": [{"text": "He"}]}},
            {"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"},
            {"index": 2, "content": {"parts": [{"text": "not requested"}]}},
            {"index": 1, "content": {"parts": [{"functionCall": {"name": "f"}}]}, "finishReason": "STOP"},
        ]
        documents = [{"candidates": [part], "modelVersion": "m"} for part in parts]
        pieces = [piece for document in documents for piece in chunks_of(document, candidates=2)]
        chunks = [chunk for piece in pieces for chunk in decoder.chunks(piece)]
        assert decoder.is_finished
        response = accumulate([*chunks, *decoder.last()])
        assert [(choice.text, choice.finish_reason) for choice in response.choices] == [
            ("Hi", "stop"),
            ("He", "tool_calls"),
        ]
        assert response.model == "m"

    def test_a_server_that_knows_one_candidate_only(self) -> None:
        decoder = ChunkDecoder(2)
        (chunk,) = chunks_of({"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]})
        assert len(accumulate([*decoder.chunks(chunk), *decoder.last()]).choices) == 1

    def test_clients_get_each_candidate(self) -> None:
        whole = plain(gemini_response(WHOLE, response_id="r", model="m"))
        texts = ["".join(part.get("text", "") for part in each["content"]["parts"]) for each in whole["candidates"]]
        ends = [(each["index"], each["finishReason"]) for each in whole["candidates"]]
        assert (texts, ends) == (["Hm.Hi", "Hello"], [(0, "MAX_TOKENS"), (1, "STOP")])
        assert whole["candidates"][1]["content"]["parts"][-1]["functionCall"]["name"] == "look"
        encoder = GeminiEncoder(response_id="r", model="m")
        chunks = plain([*(made for chunk in CHUNKS for made in encoder.chunks(chunk)), encoder.last()])
        parts = [(each["index"], part.get("text")) for made in chunks for each in made["candidates"]
                 for part in each["content"]["parts"]]  # fmt: skip
        assert parts == [(1, "He"), (0, "Hm."), (0, "Hi"), (1, "llo"), (1, None)]
        assert [each["finishReason"] for each in chunks[-1]["candidates"]] == ["MAX_TOKENS", "STOP"]

    def test_requests(self) -> None:
        body = msgspec.json.encode(
            {"contents": [{"parts": [{"text": "Hi"}]}], "generationConfig": {"candidate_count": 2}}
        )
        assert decode_gemini(body).to_chat("h").chat.n == 2
