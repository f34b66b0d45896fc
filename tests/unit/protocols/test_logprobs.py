"""Log probabilities of tokens: from each provider's form to each client's."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gpt_c.documents import chunks_of
from handler_host.chat import (
    ChatChunk,
    CompletionDecoder,
    FinishChunk,
    LogprobsChunk,
    TextChunk,
    TokenLogprob,
    TopLogprob,
    accumulate,
)
from handler_host.protocols.gemini.encoder import ChunkEncoder as GeminiEncoder
from handler_host.protocols.gemini.encoder import response as gemini_response
from handler_host.protocols.ollama.responses import ChunkEncoder as OllamaEncoder
from handler_host.protocols.openai.encoder import ChunkEncoder as OpenAIEncoder
from handler_host.protocols.openai.responses import completion
from handler_host.protocols.openai_responses.encoder import ResponseEncoder
from handler_host.protocols.openai_responses.requests import decode_request

TOP = TopLogprob(token="Ho", logprob=-2.0, bytes=[72, 111])
HI = TokenLogprob(token="Hi", logprob=-0.5, bytes=[72, 105], top_logprobs=[TOP])
YOU = TokenLogprob(token=" you", logprob=-1.5, bytes=None)
CHUNKS: list[ChatChunk] = [
    LogprobsChunk(content=[HI]),
    TextChunk(text="Hi"),
    LogprobsChunk(content=[YOU]),
    TextChunk(text=" you"),
    FinishChunk(reason="stop"),
]
WHOLE = accumulate(CHUNKS)
OPENAI = [msgspec.to_builtins(HI), msgspec.to_builtins(YOU)]


def plain(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def test_a_whole_response_has_all_of_them() -> None:
    assert WHOLE.logprobs == [HI, YOU]


def test_chunks_of_openai_are_decoded() -> None:
    decoder = CompletionDecoder()
    choice = {"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": OPENAI[:1], "refusal": None}}
    assert decoder.chunks({"choices": [choice]}) == CHUNKS[:2]


@pytest.mark.parametrize("content", [[{"token": 1}], [{"token": "a", "logprob": -1, "top_logprobs": None}], "no"])
def test_logprobs_of_another_form_are_left_out(content: Any) -> None:
    """Some servers send theirs unasked: they must not end a good response."""
    choice = {"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": content}}
    assert CompletionDecoder().chunks({"choices": [choice]}) == [TextChunk(text="Hi")]


@pytest.mark.sdks
def test_a_response_of_gemini_is_decoded() -> None:
    result = {
        "chosenCandidates": [{"token": "Hi", "logProbability": -0.5}, {"token": " you", "logProbability": -1.5}],
        "topCandidates": [{"candidates": [{"token": "Ho", "logProbability": -2}]}],
    }
    candidate = {"content": {"parts": [{"text": "Hi you"}]}, "finishReason": "STOP", "logprobsResult": result}
    first, second = chunks_of({"candidates": [candidate]})[0].logprobs
    assert (first.token, first.logprob, first.top_logprobs[0].token) == ("Hi", -0.5, "Ho")
    assert (second.token, second.top_logprobs) == (" you", [])


def test_openai_has_them_in_the_choice() -> None:
    whole = plain(completion(WHOLE, completion_id="c", created=0, model="m"))
    assert whole["choices"][0]["logprobs"]["content"] == OPENAI
    encoder = OpenAIEncoder(completion_id="c", created=0, model="m", include_usage=False)
    choices = [plain(made)["choices"][0] for chunk in CHUNKS for made in encoder.chunks(chunk)]
    pairs = [(choice["delta"]["content"], choice["logprobs"]) for choice in choices if choice["delta"].get("content")]
    assert [(text, logprobs["content"]) for text, logprobs in pairs] == [("Hi", OPENAI[:1]), (" you", OPENAI[1:])]


def test_responses_have_them_in_the_text_and_its_deltas() -> None:
    request = decode_request(b'{"model": "h", "input": "hi"}')
    whole = ResponseEncoder(request_id="r", created=0, request=request).whole(WHOLE)
    assert plain(whole)["output"][0]["content"][0]["logprobs"] == OPENAI
    encoder = ResponseEncoder(request_id="r", created=0, request=request)
    events = [*(event for chunk in CHUNKS for event in encoder.events(chunk)), *encoder.last()]
    deltas = [plain(data)["logprobs"] for name, data in events if name == "response.output_text.delta"]
    assert deltas == [OPENAI[:1], OPENAI[1:]]
    assert [plain(data)["logprobs"] for name, data in events if name == "response.output_text.done"] == [OPENAI]


def test_gemini_has_them_in_the_last_candidate() -> None:
    encoder = GeminiEncoder(response_id="r", model="m")
    for chunk in CHUNKS:
        encoder.chunks(chunk)
    for made in (encoder.last(), gemini_response(WHOLE, response_id="r", model="m")):
        candidate = plain(made)["candidates"][0]
        assert candidate["avgLogprobs"] == -1.0
        assert candidate["logprobsResult"] == {
            "chosenCandidates": [{"token": "Hi", "logProbability": -0.5}, {"token": " you", "logProbability": -1.5}],
            "topCandidates": [{"candidates": [{"token": "Ho", "logProbability": -2.0}]}, {"candidates": []}],
        }


def test_ollama_has_them_in_each_line() -> None:
    assert plain(OllamaEncoder("m", is_chat=True).whole(WHOLE))["logprobs"] == OPENAI
    encoder = OllamaEncoder("m", is_chat=False)
    lines = [plain(line)["logprobs"] for chunk in CHUNKS for line in encoder.chunks(chunk)]
    assert lines == [OPENAI[:1], OPENAI[1:]]
