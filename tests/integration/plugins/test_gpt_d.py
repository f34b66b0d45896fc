"""gpt_d: the real LiteLLM in a real worker, over real HTTP, against a provider on loopback in three protocols."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from gpt_d.deployments import read
from gpt_d.failures import translate
from gpt_d.importing import import_litellm
from handler_host.chat import ChatResponse, ReasoningPart, TextChunk, TextPart, Usage, accumulate
from handler_host.plugin import (
    ConfigError,
    ContentRefused,
    HostError,
    InvalidInput,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from handler_host.testing import (
    ChatConformance,
    NativeConformance,
    Raw,
    Reply,
    ScriptedToolCall,
    Silence,
    Status,
    Upstream,
    WorkerUnderTest,
    worker_under_test,
)
from tests.integration.plugins.bodies import FULL_CHAT, HI

SECRETS = {
    "OPENAI_API_KEY": "sk-a-very-secret-key",
    "ANTHROPIC_API_KEY": "sk-ant-another-secret-key",
    "GEMINI_API_KEY": "AIza-a-third-secret-key",
}
MODELS: dict[Any, str] = {
    "openai": "openai/gpt-4o",
    "anthropic": "anthropic/claude-sonnet-4-5",
    "gemini": "gemini/gemini-2.5-flash",
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def bases(upstream: Upstream) -> dict[str, str]:
    """Return the provider's addresses as LiteLLM takes them: Gemini's with the version of its API."""
    return {
        "openai": upstream.base_url("openai"),
        "anthropic": upstream.base_url("anthropic"),
        "gemini": f"{upstream.base_url('gemini')}/v1beta",
    }


class OverLiteLLM(ChatConformance):
    handler = "gpt_d"
    secrets = SECRETS

    @classmethod
    def configure(cls, upstream: Upstream) -> Mapping[str, Any]:
        assert cls.protocol is not None
        return {"api_base": bases(upstream), "model": MODELS[cls.protocol], "retries": 0}

    def test_the_model_of_the_request_is_sent(self) -> None:
        """A model string of LiteLLM's: its first part is the provider, and not sent."""
        self.worker.chat("Hi", model=f"{self.protocol}/another-model")
        assert self.upstream.last_request.parsed.model == "another-model"


class TestOpenAI(OverLiteLLM):
    protocol = "openai"
    test_an_unreachable_provider_is_reported = None  # type: ignore[assignment] # below, with one worker for all three
    impatient: ClassVar[Mapping[str, Any]] = {}


class TestAnthropic(OverLiteLLM):
    protocol = "anthropic"
    test_an_unreachable_provider_is_reported = None  # type: ignore[assignment] # below, with one worker for all three
    refuses = frozenset({"seed", "presence_penalty", "frequency_penalty"})
    ignores = frozenset({"stop_sequence"})  # LiteLLM drops it from streams
    impatient: ClassVar[Mapping[str, Any]] = {}


class TestGemini(OverLiteLLM):
    protocol = "gemini"
    test_an_unreachable_provider_is_reported = None  # type: ignore[assignment] # below, with one worker for all three
    refuses = frozenset({"user", "parallel_tool_calls"})
    impatient: ClassVar[Mapping[str, Any]] = {"timeout": 0.5, "plain_timeout": 0.5}


class TestNative(NativeConformance):
    handler = "gpt_d"
    operations = ("openai.chat", "openai.responses", "openai.embeddings")
    model = "openai/model-1"
    provider_model = "model-1"
    secrets = SECRETS
    test_every_native_operation_is_tested = None  # type: ignore[assignment] # anthropic.messages: in test_providers.py

    @classmethod
    def configure(cls, upstream: Upstream) -> Mapping[str, Any]:
        return {"api_base": bases(upstream), "retries": 0}


@contextmanager
def gpt_d(**settings: Any) -> Iterator[tuple[WorkerUnderTest, Upstream]]:
    """Run the handler in front of a provider."""
    with Upstream().run() as provider:
        keys = {"api_base": bases(provider), "retries": 0, **settings}
        with worker_under_test("gpt_d", keys, secrets=SECRETS) as worker:
            yield worker, provider


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[WorkerUnderTest, Upstream]]:
    with gpt_d(model="openai/configured", headers={"X-Team": "blue"}, retries=2) as found:
        yield found


def test_every_field_of_a_request_reaches_openai_as_it_is(worker: WorkerUnderTest, provider: Upstream) -> None:
    worker.dispatch("chat", FULL_CHAT)
    assert provider.last_request.body == {**FULL_CHAT, "model": "configured"}
    list(worker.dispatch_stream("chat", FULL_CHAT))
    assert provider.last_request.body == {
        **FULL_CHAT,
        "model": "configured",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert provider.last_request.key == SECRETS["OPENAI_API_KEY"]
    assert provider.last_request.headers["X-Team"] == "blue"


@pytest.mark.parametrize("protocol", MODELS)
def test_each_provider_gets_its_own_key(worker: WorkerUnderTest, provider: Upstream, protocol: Any) -> None:
    assert worker.chat("Hi", model=MODELS[protocol]).text == "Hello you"
    assert (provider.last_request.protocol, provider.last_request.key) == (
        protocol,
        SECRETS[f"{protocol.upper()}_API_KEY"],
    )


@pytest.mark.parametrize(("operation", "body"), [("chat", HI), ("embed", {"input": ["x"]})])
def test_a_model_of_no_provider_is_refused_by_name(
    worker: WorkerUnderTest, provider: Upstream, operation: str, body: dict[str, Any]
) -> None:
    error = worker.error_of(operation, {**body, "model": "nonsense"})
    assert (type(error), error.param) == (InvalidInput, "model")
    assert "PROVIDER/MODEL" in error.message
    assert provider.requests == []


@pytest.mark.parametrize("protocol", MODELS)
def test_provider_streams_only_if_the_client_does(worker: WorkerUnderTest, provider: Upstream, protocol: Any) -> None:
    """LiteLLM's streams cost three times the processor time of its plain calls."""
    worker.chat("Hi", model=MODELS[protocol])
    list(worker.chat_chunks("Hi", model=MODELS[protocol]))
    assert [received.parsed.streamed for received in provider.requests] == [False, True]


def test_a_refusal_comes_through(worker: WorkerUnderTest, provider: Upstream) -> None:
    provider.respond_with(Reply((), refusal="I will not", finish="stop"))
    for response in (worker.chat("Hi"), accumulate(worker.chat_chunks("Hi"))):
        assert (response.refusal, response.finish_reason, response.text) == ("I will not", "stop", None)


@pytest.mark.parametrize("protocol", MODELS)
@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_a_plain_answer_is_the_streamed_one_joined(
    worker: WorkerUnderTest, provider: Upstream, protocol: Any, finish: Any
) -> None:
    """Of an answer that Gemini's filter has ended LiteLLM drops the text, of plain ones only."""
    provider.respond_with(Reply(finish=finish))
    response = worker.chat("Hi", model=MODELS[protocol])
    assert response == accumulate(worker.chat_chunks("Hi", model=MODELS[protocol]))
    assert (response.text, response.finish_reason, response.model) == ("Hello you", finish, "served-model")


def test_what_a_model_thinks_in_its_text_is_kept_whole_as_in_a_stream(
    worker: WorkerUnderTest, provider: Upstream
) -> None:
    """LiteLLM would take it out, of plain answers only."""
    provider.respond_with(Reply(("<think>hm</think>", "Hello")))
    assert worker.chat("Hi").text == "<think>hm</think>Hello"


@pytest.mark.parametrize("protocol", MODELS)
def test_two_tool_calls_of_a_plain_answer_are_told_apart(
    worker: WorkerUnderTest, provider: Upstream, protocol: Any
) -> None:
    look, smell = ScriptedToolCall("look", {"at": "the sun"}), ScriptedToolCall("smell", {"at": "roses"}, id="call_2")
    provider.respond_with(Reply(("I see",), finish="tool_calls", calls=(look, smell)))
    response = worker.chat("Look!", model=MODELS[protocol], tools=[TOOL])
    assert (response.text, response.finish_reason) == ("I see", "tool_calls")
    found = [(call.function.name, json.loads(call.function.arguments)) for call in response.tool_calls]
    assert found == [("look", {"at": "the sun"}), ("smell", {"at": "roses"})]
    assert len({call.id for call in response.tool_calls}) == 2


@pytest.mark.parametrize("protocol", MODELS)
@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"error": {"message": "out of cheese", "code": 500}}, "out of cheese"),
        ({"unexpected": ["a", "shape"]}, "the provider"),
    ],
    ids=["an error", "another shape"],
)
def test_invalid_plain_response_is_an_upstream_error(
    worker: WorkerUnderTest, provider: Upstream, protocol: Any, document: dict[str, Any], told: str
) -> None:
    """LiteLLM calls some of them a bad request (422), and puts its traceback into the message."""
    provider.respond_with(Raw((json.dumps(document).encode(),), content_type="application/json"))
    error = worker.error_of("chat", {**HI, "model": MODELS[protocol]})
    assert type(error) is UpstreamError
    assert told in error.message
    assert "Traceback" not in error.message


GEMINI_CANDIDATE = {"index": 0, "content": {"role": "model", "parts": [{"text": "Hello"}]}}


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
def test_finish_reason_of_gemini_for_a_failure_is_an_error(
    worker: WorkerUnderTest, provider: Upstream, reason: str
) -> None:
    """LiteLLM calls it "stop"."""
    document = json.dumps({"candidates": [{**GEMINI_CANDIDATE, "finishReason": reason}]})
    provider.respond_with(Raw((document.encode(),), content_type="application/json"))
    error = worker.error_of("chat", {**HI, "model": MODELS["gemini"]})
    assert type(error) is UpstreamError
    assert reason in error.message
    provider.respond_with(Raw((f"data: {document}\r\n\r\n".encode(),)))
    with pytest.raises(UpstreamError, match=reason):
        list(worker.chat_chunks("Hi", model=MODELS["gemini"]))


def test_pause_of_a_turn_is_not_its_end(worker: WorkerUnderTest, provider: Upstream) -> None:
    message = {
        "id": "1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "pause_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    provider.respond_with(Raw((json.dumps(message).encode(),), content_type="application/json"))
    assert worker.chat("Hi", model=MODELS["anthropic"]).finish_reason == "length"


@pytest.mark.parametrize(("reason", "expected"), [("pause_turn", "length"), ("end_turn", "stop")])
def test_pause_of_a_streamed_turn_is_not_its_end(
    worker: WorkerUnderTest, provider: Upstream, reason: str, expected: str
) -> None:
    message = {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": []}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "usage": {"input_tokens": 1, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    provider.respond_with(
        Raw(tuple(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events))
    )
    response = accumulate(worker.chat_chunks("Hi", model=MODELS["anthropic"]))
    assert (response.text, response.finish_reason) == ("Hello", expected)


@pytest.mark.parametrize("model", ["claude-sonnet-4-20250514", "claude-sonnet-4-5"])
def test_a_response_with_a_schema_ends_with_stop(worker: WorkerUnderTest, provider: Upstream, model: str) -> None:
    """Of older models of Anthropic LiteLLM gets it by a tool of its own, whose call it makes a text."""
    call = ScriptedToolCall("json_tool_call", {"city": "Paris"})
    is_tool = model == "claude-sonnet-4-20250514"
    provider.respond_with(
        Reply((), finish="tool_calls", calls=(call,)) if is_tool else Reply(('{"city": ', '"Paris"}'))
    )
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    fields: dict[str, Any] = {"model": f"anthropic/{model}", "response_format": form}
    for response in (worker.chat("Hi", **fields), accumulate(worker.chat_chunks("Hi", **fields))):
        assert (json.loads(response.text or ""), response.finish_reason) == ({"city": "Paris"}, "stop")
    assert [tool.get("name") for tool in provider.last_request.body.get("tools", ())] == [call.name] * is_tool


WORDS = "out of cheese"


@pytest.mark.parametrize("protocol", ["anthropic", "gemini"])
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps({"error": {"message": WORDS}}), "application/json"),
        (json.dumps({"type": "error", "error": {"type": "x", "message": WORDS}}, indent=2), "application/json"),
        (json.dumps([{"error": {"code": 500, "message": WORDS}}], indent=2), "application/json"),
        (json.dumps({"detail": WORDS}), "application/json"),
        (f"<html><head><title>{WORDS}</title></head></html>", "text/html"),
        (WORDS, "text/plain"),
        (f"event: error\ndata: {json.dumps({'type': 'error', 'error': {'message': WORDS}})}\n\n", "text/event-stream"),
    ],
    ids=["json", "indented", "list", "detail", "page", "text", "event"],
)
def test_error_instead_of_a_stream_keeps_the_providers_words(
    worker: WorkerUnderTest, provider: Upstream, protocol: Any, body: str, content_type: str
) -> None:
    provider.respond_with(Raw((body.encode(),), content_type=content_type))
    place = content_type if protocol == "anthropic" else "unknown content type"  # LiteLLM hides that of Gemini
    with pytest.raises(UpstreamError, match=f"{place}.*{WORDS}"):
        list(worker.chat_chunks("Hi", model=MODELS[protocol]))


@pytest.mark.parametrize("indent", [None, 2])
def test_whole_response_of_gemini_to_a_stream_request_is_taken(
    worker: WorkerUnderTest, provider: Upstream, indent: int | None
) -> None:
    document = json.dumps({"candidates": [{**GEMINI_CANDIDATE, "finishReason": "STOP"}]}, indent=indent)
    provider.respond_with(Raw((document.encode(),), content_type="application/json"))
    response = accumulate(worker.chat_chunks("Hi", model=MODELS["gemini"]))
    assert (response.text, response.finish_reason) == ("Hello", "stop")


def test_whole_message_of_anthropic_to_a_stream_request_is_taken(worker: WorkerUnderTest, provider: Upstream) -> None:
    source = {"type": "web_search_result_location", "url": "https://example.com/", "title": "t", "cited_text": "q"}
    content = [
        {"type": "thinking", "thinking": "Well", "signature": "c2ln"},
        {"type": "text", "text": "Hello", "citations": [source]},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}},
    ]
    usage = {"input_tokens": 3, "output_tokens": 2}
    message = {"type": "message", "id": "m", "role": "assistant", "model": "c", "content": content, "usage": usage}
    body = json.dumps({**message, "stop_reason": "tool_use"}, indent=2)
    provider.respond_with(Raw((body.encode(),), content_type="application/json"))
    response = accumulate(worker.chat_chunks("Hi", model=MODELS["anthropic"]))
    assert (response.text, response.finish_reason) == ("Hello", "tool_calls")
    assert [json.loads(call.function.arguments) for call in response.tool_calls] == [{"x": 1}]
    assert [part.text for part in response.content if isinstance(part, ReasoningPart)] == ["Well"]
    assert [citation.url for citation in response.citations or ()] == ["https://example.com/"]
    assert response.usage == Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
def test_server_that_streams_a_plain_response_is_read(
    worker: WorkerUnderTest, provider: Upstream, content_type: str
) -> None:
    """Whatever its content type."""
    event = json.dumps({"candidates": [{**GEMINI_CANDIDATE, "finishReason": "STOP"}]})
    provider.respond_with(Raw((f"data: {event}\r\n\r\n".encode(),), content_type=content_type))
    response = worker.chat("Hi", model=f"{MODELS['gemini']}-that-streams")
    assert (response.text, response.finish_reason) == ("Hello", "stop")


def test_tokens_that_the_provider_does_not_count_are_not_made_up(worker: WorkerUnderTest, provider: Upstream) -> None:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices: list[dict[str, Any]] = [{"delta": {"content": "Hello"}}, {"delta": {}, "finish_reason": "stop"}]
    events = [json.dumps({**chunk, "choices": [{"index": 0, **choice}]}) for choice in choices]
    provider.respond_with(Raw((*(f"data: {event}\n\n".encode() for event in events), b"data: [DONE]\n\n")))
    expected = ChatResponse(content=[TextPart(text="Hello")], finish_reason="stop", usage=None, model="m")
    assert accumulate(worker.chat_chunks("Hi")) == expected
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    whole = {**chunk, "object": "chat.completion", "choices": [choice]}
    provider.respond_with(Raw((json.dumps(whole).encode(),), content_type="application/json"))
    assert worker.chat("Hi") == expected


@pytest.mark.parametrize("protocol", ["openai", "gemini"])
def test_several_responses(worker: WorkerUnderTest, provider: Upstream, protocol: str) -> None:
    """Whole in a stream, too: LiteLLM's streams have one choice only."""
    candidate = {"content": {"parts": [{"text": "a"}], "role": "model"}, "finishReason": "STOP"}
    choice = {"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    documents = {
        "openai": {"id": "1", "object": "chat.completion", "created": 1, "model": "m",
                   "choices": [{"index": 0, **choice}, {"index": 1, **choice}]},
        "gemini": {"candidates": [{"index": 0, **candidate}, {"index": 1, **candidate}],
                   "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3}},
    }  # fmt: skip
    provider.respond_with(Raw((json.dumps(documents[protocol]).encode(),), content_type="application/json"))
    responses = [
        worker.chat("Hi", model=MODELS[protocol], n=2),
        accumulate(worker.chat_chunks("Hi", model=MODELS[protocol], n=2)),
    ]
    assert [[choice.text for choice in response.choices] for response in responses] == [["a", "a"]] * 2


def test_the_stop_sequence_that_ended_a_response_is_named(worker: WorkerUnderTest, provider: Upstream) -> None:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    end = {"index": 0, "finish_reason": "stop", "stop_reason": "x"}
    event = json.dumps({**chunk, "choices": [{**end, "delta": {"content": "Hello"}}]})
    provider.respond_with(Raw((f"data: {event}\n\n".encode(), b"data: [DONE]\n\n")))
    assert accumulate(worker.chat_chunks("Hi", stop=["x"])).stop_sequence == "x"
    message = {"role": "assistant", "content": "Hello"}
    whole = {**chunk, "object": "chat.completion", "choices": [{**end, "message": message}]}
    provider.respond_with(Raw((json.dumps(whole).encode(),), content_type="application/json"))
    assert worker.chat("Hi", stop=["x"]).stop_sequence == "x"
    anthropic = {
        "id": "1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "stop_sequence",
        "stop_sequence": "x",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    provider.respond_with(Raw((json.dumps(anthropic).encode(),), content_type="application/json"))
    assert worker.chat("Hi", model=MODELS["anthropic"], stop=["x"]).stop_sequence == "x"


@pytest.mark.parametrize("protocol", MODELS)
@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (Status(403, "your key sk-a-very is wrong"), UpstreamAuth, "check the handler's secret"),
        (Status(404, "no such model"), UpstreamBadRequest, "no such model"),
        (Status(408, "too slow"), UpstreamTimeout, "too slow"),
        (Status(504, "too late"), UpstreamError, "too late"),
        (Status(524, "too late"), UpstreamError, "too late"),
        (Status(529, "too much", retry_after=37), UpstreamOverloaded, "too much"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Status) else None,
)
def test_a_providers_own_status_counts_whatever_litellm_says(
    worker: WorkerUnderTest, provider: Upstream, protocol: Any, status: Status, kind: type[HostError], told: str
) -> None:
    provider.respond_with(status)
    error = worker.error_of("chat", {**HI, "model": MODELS[protocol]})
    assert type(error) is kind
    assert told in error.message
    assert "sk-a-very" not in error.message
    assert error.retry_after == status.retry_after


@pytest.mark.parametrize("protocol", MODELS)
def test_redirects_are_not_followed(worker: WorkerUnderTest, provider: Upstream, protocol: Any) -> None:
    """Neither the key nor the chat reaches another server."""
    with Upstream().run() as other:
        moved = Raw((b"",), status=307, headers={"Location": f"{other.url}/v1/chat/completions"})
        provider.respond_with(*[moved] * 6)
        body = {"messages": [{"role": "user", "content": "Hi"}], "model": MODELS[protocol]}
        assert "the provider redirects" in worker.error_of("chat", body).message
        with pytest.raises(UpstreamError, match="the provider redirects"):
            list(worker.chat_chunks("Hi", model=MODELS[protocol]))
        assert other.requests == []


def test_a_failure_of_litellms_own_is_told_without_its_traceback() -> None:
    """It puts that into the message, with the paths of this machine."""
    import_litellm()
    from litellm import APIConnectionError

    text = "'list' object has no attribute 'items'\nTraceback (most recent call last):\n  File \"/srv/litellm/main.py\""
    error = translate(APIConnectionError(text, llm_provider="gemini", model="gemini/x"), 1.0)
    assert isinstance(error, UpstreamError)
    assert error.message.endswith("'list' object has no attribute 'items'")


def test_content_that_openai_refuses_names_its_field(worker: WorkerUnderTest, provider: Upstream) -> None:
    provider.respond_with(Status(400, "not this", code="content_filter"))
    assert type(worker.error_of("chat", HI)) is ContentRefused
    provider.respond_with(Status(400, "too long", param="messages[0]"))
    assert worker.error_of("chat", HI).param == "messages[0]"


@pytest.mark.parametrize("protocol", MODELS)
def test_retries_are_made_in_one_place_within_bounds(
    worker: WorkerUnderTest, provider: Upstream, protocol: Any
) -> None:
    soon = Status(503, retry_after=0)
    provider.respond_with(soon, soon, Reply())
    assert worker.chat("Hi", model=MODELS[protocol]).text == "Hello you"
    assert len(provider.requests) == 3
    provider.respond_with(soon)
    assert type(worker.error_of("chat", {**HI, "model": MODELS[protocol]})) is UpstreamOverloaded
    assert len(provider.requests) == 6
    # When: an answer breaks off. Then: it is asked for again where the client has nothing of it yet, and not else.
    provider.respond_with(Reply().with_fault("cut"), Reply())
    assert worker.chat("Hi", model=MODELS[protocol]).text == "Hello you"
    assert len(provider.requests) == 8
    provider.respond_with(Reply().with_fault("cut"))
    with pytest.raises(UpstreamError):
        list(worker.chat_chunks("Hi", model=MODELS[protocol]))
    assert len(provider.requests) == 9


def deployment(name: str, model: str, upstream: Upstream, **more: Any) -> dict[str, Any]:
    protocol: Any = model.partition("/")[0]
    return {"name": name, "model": model, "api_base": bases(upstream)[protocol], **more}


@pytest.fixture(scope="module")
def routed() -> Iterator[tuple[WorkerUnderTest, list[Upstream]]]:
    """Run the handler with deployments at three providers, and two at which nobody listens."""
    with Upstream().run() as one, Upstream().run() as two, Upstream().run() as three:
        with Upstream().run() as gone:
            deployments = [
                deployment("fast", MODELS["openai"], one),
                deployment("fast", MODELS["anthropic"], two, secret="ANTHROPIC_API_KEY_2"),
                deployment("safe", MODELS["gemini"], three),
                deployment("alone", MODELS["openai"], one),
                *(deployment(f"gone-{protocol}", model, gone) for protocol, model in MODELS.items()),
            ]
        settings = {
            "deployments": deployments,
            "fallbacks": {"fast": ["safe"], "alone": ["safe"]},
            "cooldown": 0,
            "retries": 0,
        }
        secrets = {**SECRETS, "ANTHROPIC_API_KEY_2": "the-second-key"}
        with worker_under_test("gpt_d", settings, secrets=secrets) as worker:
            yield worker, [one, two, three]


@pytest.fixture
def router(routed: tuple[WorkerUnderTest, list[Upstream]]) -> tuple[WorkerUnderTest, list[Upstream]]:
    for number, each in enumerate(routed[1], 1):
        each.reset()
        each.respond_with(Reply((str(number),)))
    return routed


def test_deployments_of_a_name_share_its_requests(router: tuple[WorkerUnderTest, list[Upstream]]) -> None:
    worker, (one, two, three) = router
    for _ in range(30):
        assert worker.chat("Hi").text in ("1", "2")
    assert one.last_request.key == SECRETS["OPENAI_API_KEY"]
    assert two.last_request.key == "the-second-key"
    assert not three.requests
    assert worker.chat("Hi", model="safe").text == "3"
    error = worker.error_of("chat", {**HI, "model": "slow"})
    assert (error.param, "fast" in error.message) == ("model", True)


def test_each_deployment_and_then_the_fallback_is_tried_once(
    router: tuple[WorkerUnderTest, list[Upstream]],
) -> None:
    worker, (one, two, three) = router
    # When: one of them fails. Then: the other answers.
    one.respond_with(Status(500))
    for _ in range(8):
        assert worker.chat("Hi").text == "2"
    assert len(two.requests) == 8
    assert len(one.requests) <= 8
    # When: the whole name fails. Then: the fallback answers, for a request, a stream and a wrong key, too.
    two.respond_with(Status(529))
    assert worker.chat("Hi").text == "3"
    assert accumulate(worker.chat_chunks("Hi")).text == "3"
    two.respond_with(Status(401))
    assert worker.chat("Hi").text == "3"
    # When: nobody answers. Then: the error is a provider's, and each was asked once.
    three.respond_with(Status(503, "closed today", retry_after=37))
    before = [len(each.requests) for each in (one, two, three)]
    assert isinstance(worker.error_of("chat", HI), UpstreamError)
    assert [len(each.requests) for each in (one, two, three)] == [count + 1 for count in before]


def test_broken_stream_behind_the_router_is_not_taken_over(
    router: tuple[WorkerUnderTest, list[Upstream]],
) -> None:
    worker, (one, _, three) = router
    for how in ("truncated", "cut"):
        one.respond_with(Reply().with_fault(how, after=1))
        with pytest.raises(UpstreamError):
            list(worker.chat_chunks("Hi", model="alone"))
    one.respond_with(Reply().with_fault("stalled", after=1))
    chunks = worker.chat_chunks("Hi", model="alone")
    assert next(chunk for chunk in chunks if isinstance(chunk, TextChunk)).text == "Hello"
    chunks.close()
    one.disconnected.result(30)
    assert len(one.requests) == 3
    assert not three.requests


def test_a_plain_response_behind_the_router_is_checked(
    router: tuple[WorkerUnderTest, list[Upstream]],
) -> None:
    worker, (one, _, three) = router
    # When: it breaks off on its way. Then: the fallback answers, and the client knows nothing of it.
    one.respond_with(Reply().with_fault("cut"))
    assert worker.chat("Hi", model="alone").text == "3"
    # When: it has no finish reason. Then: that is an error, of Gemini's, too.
    for name, each in (("alone", one), ("safe", three)):
        each.respond_with(Reply().with_fault("truncated"))
        assert type(worker.error_of("chat", {**HI, "model": name})) is UpstreamError
    # When: it is a refusal in words. Then: the words come through.
    one.respond_with(Reply((), refusal="I will not"))
    assert worker.chat("Hi", model="alone").refusal == "I will not"
    # When: the client leaves. Then: the provider's connection is closed, and nobody takes over.
    one.reset()
    one.respond_with(Silence())
    asked = len(three.requests)
    asking = worker.start_dispatch("chat", {**HI, "model": "alone"})
    one.first_request.result(30)
    asking.cancel()
    one.disconnected.result(30)
    one.respond_with(Reply(("again",)))
    assert worker.chat("Hi", model="alone").text == "again"
    assert (len(one.requests), len(three.requests)) == (2, asked)


def test_a_plain_call_has_a_patience_of_its_own() -> None:
    """Its provider is silent until the answer is ready; each part of a stream has to come sooner."""
    with gpt_d(model="openai/gpt-4o", timeout=0.3, plain_timeout=60.0) as (worker, provider):
        provider.respond_with(Reply(pause=0.5))
        assert worker.chat("Hi").text == "Hello you"
        with pytest.raises(UpstreamTimeout):
            list(worker.chat_chunks("Hi"))


@pytest.mark.parametrize("protocol", MODELS)
def test_an_unreachable_provider_is_reported(router: tuple[WorkerUnderTest, list[Upstream]], protocol: str) -> None:
    error = router[0].error_of("chat", {**HI, "model": f"gone-{protocol}"})
    assert type(error) is UpstreamUnreachable


def test_failed_deployments_cool_down_all_of_them_is_an_error() -> None:
    with Upstream().run() as one, Upstream().run() as two:
        listed = [deployment("fast", "openai/gpt-4o", each) for each in (one, two)]
        settings = {"deployments": listed, "cooldown": 3600, "retries": 0}
        with worker_under_test("gpt_d", settings, secrets=SECRETS) as worker:
            one.respond_with(Status(401))
            for _ in range(30):
                assert worker.chat("Hi").text == "Hello you"
            # The Router notes a failure a little after it.
            asked = len(one.requests)
            assert 1 <= asked < 10
            for _ in range(30):
                worker.chat("Hi")
            assert len(one.requests) == asked
            two.respond_with(Status(401))
            errors = [worker.error_of("chat", HI) for _ in range(30)]
            assert type(errors[0]) is UpstreamAuth
            assert isinstance(errors[-1], UpstreamRateLimited)
            assert errors[-1].retry_after is not None
            assert "left out" in errors[-1].message


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"api_base": {"openai": 7}}, ["api_base", "got `int`"]),
        ({"deployments": [{"name": "a"}]}, ["deployments[0]", "`model`"]),
        ({"deployments": [{"name": "a", "model": "openai/x", "modle": 1}]}, ["deployments[0]", "`modle`"]),
        ({"deployments": [{"name": "a", "model": "openai/x"}], "fallbacks": {"a": ["b"]}}, ["fallbacks", "'b'", "a"]),
        ({"deployments": [{"name": "a", "model": "openai/x"}], "fallbacks": {"a": ["a"]}}, ["fallbacks", "its own"]),
    ],
)
def test_settings_that_do_not_fit_are_told_with_their_place(settings: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(ConfigError) as wrong:
        read(settings)
    assert [part for part in ["[handlers.gpt_d]", *told] if part not in wrong.value.message] == []


ACTIVATE = """\
import asyncio, json, logging, os, sys, threading

events = []

def look(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        events.append(f"{event}: {arguments}")
        raise PermissionError("no network in this test")

sys.addaudithook(look)
from gpt_d import GptD
from handler_host.plugin import ConfigError
from handler_host.plugin import Context

assert "litellm" not in sys.modules, "looking at the plugin imports LiteLLM"

async def activate(settings):
    config = {"timeout": 5.0, "plain_timeout": 5.0, "retries": 0, "cooldown": 5.0, **settings}
    context = Context("gpt_d", 1, config, {}, logging.getLogger("x"), None)
    try:
        await GptD().activate(context)
    except ConfigError as error:
        return {"error": error.message}
    import litellm

    found = {
        "callbacks": [len(names) for names in (litellm.callbacks, litellm.success_callback, litellm.failure_callback)],
        "telemetry": litellm.telemetry,
        "threads": threading.active_count(),
        "from .env": os.environ.get("OTHER_HANDLERS_KEY"),
    }
    await context.close()
    return found

async def main():
    found = [await activate(settings) for settings in json.loads(sys.argv[1])]
    import litellm
    had_text = "claude_json_str" in vars(litellm.utils)
    from litellm.utils import claude_json_str
    with open(f"{os.path.dirname(litellm.__file__)}/litellm_core_utils/tokenizers/anthropic_tokenizer.json") as file:
        is_text = claude_json_str == json.dumps(json.load(file))
    print(json.dumps([found, events, had_text, is_text, json.load.__name__]))

asyncio.run(main())
"""


def test_activation_has_no_side_effects_and_names_flaws(
    tmp_path: Path,
) -> None:
    (tmp_path / ".env").write_text("OTHER_HANDLERS_KEY=leaked\n")
    deployment = {"name": "a", "model": "openai/x"}
    settings: list[Any] = [
        {},
        {"deployments": [deployment]},
        {"model": "nonsense"},
        {"deployments": [{"name": "a", "model": "x"}]},
        {"deployments": [{**deployment, "secret": "NO_KEY"}]},
        {"deployments": [deployment], "model": "b"},
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LITELLM_")}
    command = [sys.executable, "-W", "ignore", "-c", ACTIVATE, json.dumps(settings)]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (plain, routed, *wrong), events, *tokenizer = json.loads(done.stdout)
    assert events == []
    assert tokenizer == [False, True, "load"], "the document of the tokenizer is read at its first use"
    assert plain == {"callbacks": [0, 0, 0], "telemetry": False, "threads": 1, "from .env": None}
    # The Router counts successes and failures by callbacks of its own.
    assert (routed["callbacks"][0], routed["threads"]) == (0, 1)
    told = [("model", "'nonsense'", "PROVIDER/MODEL"), ("deployments", "'x'"), ("'NO_KEY'", "not set"), ("'b'", ": a")]
    for error, parts in zip(wrong, told, strict=True):
        assert [part for part in parts if part not in error["error"]] == [], error


def test_the_fork_server_can_import_litellm_for_its_workers() -> None:
    """As the README advises: the worker then has it at once, in pages that it shares."""
    policy = {"preload": ("gpt_d.preload",)}
    with Upstream().run() as provider:
        settings = {"api_base": bases(provider), "retries": 0}
        with worker_under_test("gpt_d", settings, secrets=SECRETS, policy=policy) as worker:
            assert worker.chat("Hi").text == "Hello you"
            memory = psutil.Process(worker.status.pid).memory_full_info()
            # 0.64 was seen, and 0.88 of a worker that had to import it itself.
            assert memory.pss < 0.75 * memory.rss


def test_tools_beside_reasoning(running: tuple[WorkerUnderTest, Upstream]) -> None:
    """LiteLLM would call the Responses API, which needs a package that it does not depend on."""
    worker, upstream = running
    upstream.reset()
    body = {**HI, "model": "openai/gpt-5.5", "tools": [TOOL], "reasoning": {"effort": "high"}}
    assert "ignored" not in worker.dispatch("chat", body)
    assert next(iter(worker.dispatch_stream("chat", body)))["type"] == "model"
    assert [request.path for request in upstream.requests] == ["/v1/chat/completions"] * 2
    assert [request.body["reasoning_effort"] for request in upstream.requests] == ["high"] * 2


def test_openai_itself_gets_tools_without_reasoning(monkeypatch: pytest.MonkeyPatch) -> None:
    with Upstream().run() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        settings = {"api_base": {"openai": "http://eu.api.openai.com/v1"}, "retries": 0}
        with worker_under_test("gpt_d", settings, secrets=SECRETS) as worker:
            body = {**HI, "model": "openai/gpt-5.5", "tools": [TOOL]}
            assert worker.dispatch("chat", {**body, "reasoning": {"effort": "high"}})["ignored"] == ["reasoning"]
            assert "ignored" not in worker.dispatch("chat", body)
        assert [request.body["reasoning_effort"] for request in proxy.requests] == ["none"] * 2


def test_a_deployment_of_another_provider_is_not_at_openai() -> None:
    """It has no address of its own, and the model's server is not OpenAI's."""
    with Upstream().run() as upstream:
        claude = {"name": "both", "model": MODELS["anthropic"]}
        settings = {
            "deployments": [deployment("both", "openai/gpt-5.5", upstream), claude],
            "api_base": {"anthropic": upstream.url},
            "retries": 0,
        }
        with worker_under_test("gpt_d", settings, secrets=SECRETS) as worker:
            body = {**HI, "model": "both", "tools": [TOOL], "reasoning": {"effort": "high"}}
            assert "ignored" not in worker.dispatch("chat", body)
