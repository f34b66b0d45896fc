"""The service tier, in each protocol's own words, and OpenAI's fingerprint."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpt_a.requests import request_body
from gpt_a.responses_decoder import ResponseDecoder
from gpt_b.events import EventDecoder
from gpt_b.requests import message_body
from handler_host.chat import ChatResponse, CompletionDecoder, accumulate, to_chunks
from handler_host.protocols.anthropic.encoder import EventEncoder
from handler_host.protocols.anthropic.requests import decode_message
from handler_host.protocols.anthropic.responses import message
from handler_host.protocols.fields import IgnoredFields
from handler_host.protocols.gemini import encoder as gemini
from handler_host.protocols.gemini.requests import decode_request
from handler_host.protocols.openai.encoder import ChunkEncoder
from handler_host.protocols.openai.legacy_completions import CompletionEncoder
from handler_host.protocols.openai.responses import completion
from handler_host.protocols.openai_responses.encoder import ResponseEncoder
from handler_host.protocols.openai_responses.requests import decode_chat

CHOICE = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
OPENAI = {"model": "m", "system_fingerprint": "fp_1", "choices": [CHOICE], "usage": {"prompt_tokens": 1}}


def respond(tier: str = "default") -> ChatResponse:
    decoder = CompletionDecoder()
    return accumulate([*decoder.chunks({**OPENAI, "service_tier": tier}), *decoder.last()])


def plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


IDS: dict[str, Any] = {"created": 1, "model": "m"}


def test_clients_get_the_tier_and_the_fingerprint() -> None:
    response = respond()
    whole = plain(completion(response, completion_id="c", **IDS))
    encoder = ChunkEncoder(completion_id="c", include_usage=False, **IDS)
    chunks = [plain(made) for chunk in to_chunks(response) for made in encoder.chunks(chunk)]
    assert {(each["service_tier"], each["system_fingerprint"]) for each in [whole, *chunks]} == {("default", "fp_1")}
    legacy = CompletionEncoder(completion_id="c", include_usage=False, **IDS)
    assert plain(legacy.whole(response))["system_fingerprint"] == "fp_1"
    request, _ = decode_chat(b'{"model": "m", "input": "Hi"}', IgnoredFields())
    made = ResponseEncoder(request_id="r", created=1, request=request).whole(response)
    assert plain(made)["service_tier"] == "default"


@pytest.mark.parametrize(("tier", "theirs"), [("default", "standard"), ("priority", "priority")])
def test_other_protocols_have_words_of_their_own(tier: str, theirs: str) -> None:
    response = respond(tier)
    assert plain(message(response, message_id="m", model="m"))["usage"]["service_tier"] == theirs
    encoder = EventEncoder(message_id="m", model="m")
    start = b"".join(event for chunk in to_chunks(response) for event in encoder.events(chunk))
    assert f'"service_tier":"{theirs}"'.encode() in start
    assert plain(gemini.response(response, response_id="r", model="m"))["usageMetadata"]["serviceTier"] == theirs


def test_the_tier_of_each_provider_is_read() -> None:
    usage = {"input_tokens": 1, "service_tier": "standard"}
    events = EventDecoder()
    content = [{"type": "text", "text": "Hi"}]
    chunks = events.chunks({"type": "message", "model": "c", "content": content, "usage": usage})
    assert accumulate([*chunks, *events.last()]).service_tier == "default"
    ends = ResponseDecoder()
    response = {"model": "m", "service_tier": "priority"}
    chunks = [
        *ends.chunks({"type": "response.created", "response": {"model": "m", "service_tier": "auto"}}),
        *ends.chunks({"type": "response.output_text.delta", "delta": "Hi"}),
        *ends.chunks({"type": "response.completed", "response": response}),
    ]
    assert accumulate([*chunks, *ends.last()]).service_tier == "priority"


def test_a_provider_gets_its_own_word() -> None:
    """OpenAI refuses ``standard_only`` and ``standard``, with the whole request."""
    history = {"messages": [{"role": "user", "content": "Hi"}]}
    body = {"model": "gpt_a", "max_tokens": 50, "service_tier": "standard_only", **history}
    of_anthropic = decode_message(msgspec.json.encode(body))[1].chat
    contents = {"contents": [{"parts": [{"text": "Hi"}]}], "serviceTier": "STANDARD"}
    of_gemini = decode_request(msgspec.json.encode(contents)).to_chat("gpt_a").chat
    for chat in (of_anthropic, of_gemini):
        assert request_body(chat, "m", is_openai=True).content["service_tier"] == "default"
    made, ignored = message_body(of_anthropic, "claude", 50)
    assert (made["service_tier"], ignored) == ("standard_only", [])
