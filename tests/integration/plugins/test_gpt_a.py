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
)
from handler_host.testing import (
    ChatConformance,
    NativeConformance,
    Raw,
    Reply,
    Status,
    Upstream,
    WorkerUnderTest,
    worker_under_test,
)
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


def test_what_compatible_servers_leave_out_of_a_chunk_is_not_missed(
    worker: WorkerUnderTest, provider: Upstream
) -> None:
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
