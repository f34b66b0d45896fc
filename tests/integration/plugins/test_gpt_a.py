"""gpt_a: the real OpenAI SDK in a real worker, over real HTTP, against a provider on loopback."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from handler_host.chat import FunctionCall, Usage
from handler_host.plugin import (
    ActivationFailed,
    ContentRefused,
    HostError,
    UnknownOperation,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
)
from handler_host.testing import (
    ChatConformance,
    NativeConformance,
    Raw,
    Reply,
    Status,
    Step,
    Upstream,
    WorkerUnderTest,
    worker_under_test,
)
from handler_host.testing.chat_conformance import IMAGE, PIXEL
from tests.integration.plugins.bodies import FULL_CHAT, HI

KEY = "sk-a-very-secret-key"


class TestConformance(ChatConformance):
    handler = "gpt_a"
    protocol = "openai"
    settings = {"retries": 0}
    secrets = {"OPENAI_API_KEY": KEY}


class TestNative(NativeConformance):
    handler = "gpt_a"
    operations = ("openai.chat", "openai.responses", "openai.embeddings")
    settings = {"retries": 0}
    secrets = {"OPENAI_API_KEY": KEY}


@contextmanager
def gpt_a(**settings: Any) -> Iterator[tuple[WorkerUnderTest, Upstream]]:
    """Run the handler in front of a provider."""
    with Upstream().run() as provider:
        keys = {"base_url": provider.base_url("openai"), "retries": 0, **settings}
        with worker_under_test("gpt_a", keys, secrets={"OPENAI_API_KEY": KEY}) as worker:
            yield worker, provider


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[WorkerUnderTest, Upstream]]:
    with gpt_a(model="configured", headers={"X-Team": "blue"}) as found:
        yield found


def test_every_field_reaches_the_provider_unchanged(worker: WorkerUnderTest, provider: Upstream) -> None:
    worker.dispatch("chat", FULL_CHAT)
    worker.dispatch("chat", {**FULL_CHAT, "model": "asked"})
    sent, again = (received.body for received in provider.requests)
    assert sent == {**FULL_CHAT, "model": "configured", "stream": True, "stream_options": {"include_usage": True}}
    assert again["model"] == "asked"
    assert provider.last_request.key == KEY
    assert provider.last_request.headers["X-Team"] == "blue"


def test_a_refusal_comes_through(worker: WorkerUnderTest, provider: Upstream) -> None:
    provider.respond_with(Reply((), refusal="I will not", finish="content_filter"))
    response = worker.chat("Hi")
    assert (response.refusal, response.finish_reason) == ("I will not", "content_filter")


@pytest.mark.parametrize(
    ("status", "kind", "told", "param"),
    [
        (Status(403), UpstreamAuth, "check the handler's secret", None),
        (Status(400, "no such field", param="messages[0]"), UpstreamBadRequest, "no such field", "messages[0]"),
        (Status(404, "no such model"), UpstreamBadRequest, "no such model", None),
        (Status(400, "not this", code="content_filter"), ContentRefused, "not this", None),
        (Status(502, html="<html>Bad Gateway</html>"), UpstreamError, "text/html", None),
        (Status(529), UpstreamOverloaded, "529", None),
    ],
)
def test_a_providers_refusal_becomes_the_hosts_error(
    worker: WorkerUnderTest, provider: Upstream, status: Status, kind: type[HostError], told: str, param: str | None
) -> None:
    provider.respond_with(status)
    error = worker.error_of("chat", HI)
    assert type(error) is kind
    assert told in error.message
    assert error.param == param
    assert len(provider.requests) == 1


def test_an_error_event_without_openais_shape_ends_the_stream(worker: WorkerUnderTest, provider: Upstream) -> None:
    """As some compatible servers send it, with status 200."""
    provider.respond_with(Raw((f"data: {json.dumps({'error': 'overheated'})}\n\n".encode(),)))
    assert isinstance(worker.error_of("chat", HI), UpstreamError)


def test_chunks_may_lack_what_compatible_servers_leave_out(worker: WorkerUnderTest, provider: Upstream) -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": None}}
    chunks = [
        {"choices": [{"delta": {"tool_calls": [call]}}], "usage": None},
        {"choices": [{"delta": None, "finish_reason": "tool_calls"}]},
        {"choices": None, "usage": {"completion_tokens": 2}},
    ]
    events = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    provider.respond_with(Raw((*events, b"data: [DONE]\n\n")))
    response = worker.chat("Hi")
    assert response.tool_calls[0].function == FunctionCall(name="look", arguments="")
    assert (response.finish_reason, response.usage) == ("tool_calls", Usage(completion_tokens=2))


def test_a_chunk_that_is_none_of_openais_is_the_providers_fault(worker: WorkerUnderTest, provider: Upstream) -> None:
    for data in ({"choices": [{"delta": {"content": 5}}]}, ["no chunk"]):
        provider.respond_with(Raw((f"data: {json.dumps(data)}\n\n".encode(), b"data: [DONE]\n\n")))
        assert "not one of OpenAI's" in worker.error_of("chat", HI).message


def test_a_stream_that_does_not_end_after_its_last_word_is_whole(worker: WorkerUnderTest, provider: Upstream) -> None:
    chunk: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunk["choices"] = [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": "stop"}]
    provider.respond_with(Raw((f"data: {json.dumps(chunk)}\n\n".encode(), b"data: [DONE]\n\n"), stays_open=True))
    assert worker.chat("Hi").text == "Hello"
    provider.disconnected.result(30)
    provider.respond_with(Reply())
    assert worker.chat("Hi").text == "Hello you"


def test_retries_are_bounded_and_end_with_the_first_chunk() -> None:
    with gpt_a(retries=2) as (worker, provider):
        soon = Status(503, retry_after=0)
        provider.respond_with(soon, soon, Reply())
        assert worker.chat("Hi").text == "Hello you"
        assert len(provider.requests) == 3
        provider.respond_with(soon)
        assert isinstance(worker.error_of("chat", HI), UpstreamOverloaded)
        assert len(provider.requests) == 6
        provider.respond_with(Reply().with_fault("cut"))
        assert isinstance(worker.error_of("chat", HI), UpstreamError)
        assert len(provider.requests) == 7


def test_the_stop_sequence_that_a_server_names_is_the_responses(worker: WorkerUnderTest, provider: Upstream) -> None:
    chunk = b'{"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop", "stop_reason": "END"}]}'
    provider.respond_with(Raw((b"data: " + chunk + b"\n\ndata: [DONE]\n\n",)))
    assert worker.chat("Hi", stop=["###", "END"]).stop_sequence == "END"
    assert worker.chat("Hi").stop_sequence is None


def test_a_model_that_takes_no_reasoning_back(worker: WorkerUnderTest, provider: Upstream) -> None:
    """Of a server whose other models do: Groq refuses the whole session then."""
    thoughts = json.dumps({"choices": [{"index": 0, "delta": {"reasoning": "Hm.", "content": "Hi"}}]})
    last = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    provider.respond_with(
        Raw((f"data: {thoughts}\n\ndata: {last}\n\n".encode(),)),
        Status(400, "'messages.1' : property 'reasoning' is unsupported"),
        Reply(),
    )
    content = worker.dispatch("chat", HI)["content"]
    history = [*HI["messages"], {"role": "assistant", "content": content}, *HI["messages"]]
    response = worker.dispatch("chat", {"messages": history})
    assert response["ignored"] == ["messages[].reasoning"]
    assert [sent.body["messages"][1].get("reasoning") for sent in provider.requests[1:]] == ["Hm.", None]


def test_tokens_are_counted_by_the_provider(worker: WorkerUnderTest, provider: Upstream) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    schema = {"type": "object", "properties": {}}
    request = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "one two"}]},
            {"role": "assistant", "content": "three", "tool_calls": [call]},
            {"role": "tool", "content": "four", "tool_call_id": "c1"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": schema}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        "max_tokens": 5,
    }
    assert worker.dispatch("count_tokens", request) == {"input_tokens": 6}
    assert provider.last_request.path == "/v1/responses/input_tokens"
    assert provider.last_request.body == {
        "model": "configured",
        "input": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "one two"}]},
            {"role": "assistant", "content": "three"},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "four"},
        ],
        "tools": [{"type": "function", "name": "look", "parameters": schema, "strict": False}],
        "text": {"format": {"type": "json_schema", "name": "s", "schema": schema}},
    }
    recording = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    error = worker.error_of("count_tokens", {"messages": [{"role": "user", "content": [recording]}]})
    assert error.param == "messages[0].content[0]"
    provider.respond_with(Status(404, html="<h1>Not Found</h1>"))
    assert isinstance(worker.error_of("count_tokens", HI), UnknownOperation)


def test_missing_key_is_named_at_activation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "OPENAI_API_KEY" not in os.environ
    with worker_under_test("gpt_a") as worker:
        error = worker.error_of("chat", HI)
        assert isinstance(error, ActivationFailed)
        assert not error.retryable
        assert "OPENAI_API_KEY" in error.message
        assert "base_url" in error.message


def test_a_setting_that_does_not_fit_the_manifest_is_named() -> None:
    with worker_under_test("gpt_a", {"modle": "x"}) as worker:
        assert "did you mean 'model'?" in worker.error_of("chat", HI).message


TOOL = {"type": "function", "function": {"name": "look"}}
ENCRYPTED = {"type": "reasoning", "encrypted": "gAAAA", "format": "openai"}


@pytest.fixture(scope="class")
def at_openai() -> Iterator[tuple[WorkerUnderTest, Upstream]]:
    """Run the handler in front of OpenAI's name, which resolves nowhere: the proxy, the test's provider, responds."""
    with Upstream().run() as provider, pytest.MonkeyPatch.context() as environment:
        environment.setenv("HTTP_PROXY", provider.url)
        environment.setenv("NO_PROXY", "")
        settings = {"base_url": "http://eu.api.openai.com/v1", "model": "gpt-5.5", "retries": 0}
        with worker_under_test("gpt_a", settings, secrets={"OPENAI_API_KEY": KEY}) as worker:
            yield worker, provider


def responses_stream(*events: tuple[str, dict[str, Any]]) -> Raw:
    return Raw(tuple(f"data: {json.dumps({'type': kind, **fields})}\n\n".encode() for kind, fields in events))


class TestOpenAIsResponses:
    """Models that reason beside tools."""

    def test_reasoning_beside_tools_comes_from_openais_responses(
        self, at_openai: tuple[WorkerUnderTest, Upstream]
    ) -> None:
        worker, provider = at_openai
        provider.respond_with(
            responses_stream(
                ("response.created", {"response": {"model": "gpt-5.5-2026"}}),
                ("response.output_item.added", {"output_index": 0, "item": {"type": "reasoning"}}),
                ("response.reasoning_summary_part.added", {"output_index": 0, "summary_index": 0}),
                ("response.reasoning_summary_text.delta", {"output_index": 0, "summary_index": 0, "delta": "One."}),
                ("response.reasoning_summary_part.added", {"output_index": 0, "summary_index": 1}),
                ("response.reasoning_summary_text.delta", {"output_index": 0, "summary_index": 1, "delta": "Two."}),
                (
                    "response.output_item.done",
                    {"output_index": 0, "item": {"type": "reasoning", "encrypted_content": "gAAAA"}},
                ),
                ("response.output_text.delta", {"output_index": 1, "delta": "Hello"}),
                (
                    "response.output_item.added",
                    {"output_index": 2, "item": {"type": "function_call", "call_id": "c1", "name": "look"}},
                ),
                ("response.function_call_arguments.delta", {"output_index": 2, "delta": '{"a"'}),
                ("response.function_call_arguments.delta", {"output_index": 2, "delta": ": 1}"}),
                (
                    "response.completed",
                    {
                        "response": {
                            "usage": {
                                "input_tokens": 5,
                                "input_tokens_details": {"cached_tokens": 3},
                                "output_tokens": 4,
                                "output_tokens_details": {"reasoning_tokens": 2},
                                "total_tokens": 9,
                            }
                        }
                    },
                ),
            )
        )
        request = {**HI, "tools": [TOOL], "reasoning": {"effort": "high", "summary": "auto"}}
        response = worker.dispatch("chat", request)
        assert (provider.last_request.path, provider.last_request.key) == ("/v1/responses", KEY)
        assert response == {
            "content": [
                {**ENCRYPTED, "text": "One.\n\nTwo."},
                {"type": "text", "text": "Hello"},
                {"type": "tool_call", "id": "c1", "name": "look", "arguments": '{"a": 1}'},
            ],
            "finish_reason": "tool_calls",
            "model": "gpt-5.5-2026",
            "usage": {
                "prompt_tokens": 5,
                "completion_tokens": 4,
                "total_tokens": 9,
                "cached_tokens": 3,
                "reasoning_tokens": 2,
            },
        }
        provider.respond_with(Reply(finish="length"))
        result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "seen"}, IMAGE]}
        foreign = {"type": "reasoning", "text": "Hm", "signature": "s", "format": "anthropic"}
        assistant = {"role": "assistant", "content": [foreign, *response["content"]]}
        response = worker.dispatch("chat", {**request, "messages": [*HI["messages"], assistant, result], "seed": 1})
        assert (response["finish_reason"], response["ignored"]) == ("length", ["seed", "messages[].reasoning"])
        assert provider.last_request.body["input"] == [
            {"role": "user", "content": "Hi"},
            {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "One.\n\nTwo."}],
                "encrypted_content": "gAAAA",
            },
            {"role": "assistant", "content": "Hello"},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a": 1}'},
            {
                "type": "function_call_output",
                "call_id": "c1",
                "output": [
                    {"type": "input_text", "text": "seen"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
                ],
            },
        ]

    @pytest.mark.parametrize(
        ("step", "kind", "words"),
        [
            (Reply().with_fault("error"), UpstreamError, "overheated"),
            (Reply().with_fault("truncated"), UpstreamError, "cut off"),
            (Reply().with_fault("malformed"), UpstreamError, "response.out"),
            (Status(429, retry_after=7), UpstreamRateLimited, "429"),
        ],
    )
    def test_failures_of_openais_responses(
        self, at_openai: tuple[WorkerUnderTest, Upstream], step: Step, kind: type[HostError], words: str
    ) -> None:
        worker, provider = at_openai
        provider.respond_with(step)
        error = worker.error_of("chat", {**HI, "tools": [TOOL], "reasoning": {"effort": "high"}})
        assert type(error) is kind
        assert words in error.message

    def test_events_of_a_failed_response_and_of_another_shape(
        self, at_openai: tuple[WorkerUnderTest, Upstream]
    ) -> None:
        worker, provider = at_openai
        request = {**HI, "tools": [TOOL], "reasoning": {"effort": "high"}}
        failure = {"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "too fast"}}
        provider.respond_with(responses_stream(("response.failed", {"response": failure})))
        error = worker.error_of("chat", request)
        assert type(error) is UpstreamRateLimited
        assert "too fast" in error.message
        provider.respond_with(responses_stream(("response.output_text.delta", {"delta": 5})))
        assert "not OpenAI's" in worker.error_of("chat", request).message
        refusal = ("response.refusal.delta", {"delta": "I will not"})
        provider.respond_with(responses_stream(refusal, ("response.completed", {"response": {}})))
        assert worker.chat("Hi", tools=[TOOL], reasoning={"effort": "high"}).refusal == "I will not"

    def test_an_organization_that_gets_no_summaries(self, at_openai: tuple[WorkerUnderTest, Upstream]) -> None:
        """OpenAI refuses the option, and not the request."""
        worker, provider = at_openai
        provider.reset()
        refusal = Status(400, "verify your organization", param="reasoning.summary", code="unsupported_value")
        provider.respond_with(refusal, Reply())
        request = {**HI, "tools": [TOOL], "reasoning": {"effort": "high", "summary": "auto"}}
        for _ in range(2):
            response = worker.dispatch("chat", request)
            assert (response["ignored"], response["content"][0]["text"]) == (["reasoning.summary"], "Hello you")
        first, *later = [sent.body["reasoning"] for sent in provider.requests]
        assert (first, later) == ({"effort": "high", "summary": "auto"}, [{"effort": "high"}] * 2)
        worker.unload()  # the handler remembers the refusal

    def test_a_summary_that_one_model_lacks(self, at_openai: tuple[WorkerUnderTest, Upstream]) -> None:
        """It is left out of this request only, not of those of other clients."""
        worker, provider = at_openai
        provider.reset()
        words = "Unsupported value: 'concise' is not supported with the 'gpt-5.5' model."
        provider.respond_with(Status(400, words, param="reasoning.summary", code="unsupported_value"), Reply())
        for summary in ("concise", "auto"):
            worker.dispatch("chat", {**HI, "tools": [TOOL], "reasoning": {"effort": "high", "summary": summary}})
        assert [sent.body["reasoning"].get("summary") for sent in provider.requests] == ["concise", None, "auto"]
