"""gpt_b: the real Anthropic SDK in a real worker, over real HTTP, against a provider on loopback."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from handler_host.chat import FunctionCall, ReasoningPart, Usage
from handler_host.plugin import (
    ActivationFailed,
    ContentRefused,
    HostError,
    InvalidInput,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamTimeout,
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
from handler_host.testing.chat_conformance import PIXEL
from tests.integration.plugins.bodies import HI

KEY = "sk-ant-a-very-secret-key"
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
TOOL = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": SCHEMA}}


class TestConformance(ChatConformance):
    handler = "gpt_b"
    protocol = "anthropic"
    settings = {"retries": 0}
    secrets = {"ANTHROPIC_API_KEY": KEY}
    refuses = frozenset({"seed", "presence_penalty", "frequency_penalty"})


class TestNative(NativeConformance):
    handler = "gpt_b"
    operations = ("anthropic.messages", "anthropic.count_tokens")
    settings = {"retries": 0}
    secrets = {"ANTHROPIC_API_KEY": KEY}


@contextmanager
def gpt_b(**settings: Any) -> Iterator[tuple[WorkerUnderTest, Upstream]]:
    """Run the handler in front of a provider."""
    with Upstream().run() as provider:
        keys = {"base_url": provider.base_url("anthropic"), "retries": 0, **settings}
        with worker_under_test("gpt_b", keys, secrets={"ANTHROPIC_API_KEY": KEY}) as worker:
            yield worker, provider


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[WorkerUnderTest, Upstream]]:
    with gpt_b(model="configured", max_tokens=77, headers={"X-Team": "blue"}) as found:
        yield found


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def stream(*events: dict[str, Any]) -> Raw:
    """A stream of events as Anthropic sends them."""
    return Raw(tuple(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events))


START = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}}}


def stop(reason: str, **delta: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, **delta}, "usage": {"output_tokens": 3}}


def test_every_field_reaches_the_provider_translated(worker: WorkerUnderTest, provider: Upstream) -> None:
    calls = [
        {"id": f"c{number}", "type": "function", "function": {"name": "look", "arguments": arguments}}
        for number, arguments in enumerate(('{"at": "x"}', ""))
    ]
    request = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                    {"type": "image_url", "image_url": {"url": "https://example.invalid/cat.png"}},
                ],
            },
            {"role": "assistant", "content": "I look.", "tool_calls": calls},
            {"role": "tool", "content": "a cat", "tool_call_id": "c0"},
            {"role": "tool", "content": [{"type": "text", "text": "a dog"}], "tool_call_id": "c1"},
            {"role": "assistant", "refusal": "I will not say."},
            {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "Why?"},
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 10,
        "stop": ["x"],
        "tools": [TOOL, {"type": "function", "function": {"name": "now", "strict": True}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
        "user": "u",
    }
    worker.dispatch("chat", request)
    assert provider.last_request.body == {
        "model": "configured",
        "stream": True,
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                    {"type": "image", "source": {"type": "url", "url": "https://example.invalid/cat.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c0", "name": "look", "input": {"at": "x"}},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c0", "content": "a cat"},
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "a dog"}]},
                ],
            },
            {"role": "assistant", "content": "I will not say."},
            {"role": "user", "content": "Why?"},
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 10,
        "stop_sequences": ["x"],
        "tools": [
            {"name": "look", "description": "Look.", "input_schema": SCHEMA},
            {"name": "now", "strict": True, "input_schema": {"type": "object"}},
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "output_config": {"format": {"type": "json_schema", "schema": {**SCHEMA, "additionalProperties": False}}},
        "metadata": {"user_id": "u"},
    }
    assert provider.last_request.key == KEY
    assert provider.last_request.headers["X-Team"] == "blue"


def test_short_request_gets_the_configured_model_and_limit_only(worker: WorkerUnderTest, provider: Upstream) -> None:
    worker.dispatch("chat", HI)
    assert provider.last_request.body == {"model": "configured", "max_tokens": 77, "stream": True, **HI}


def test_sampling_parameters_need_the_older_api_version(worker: WorkerUnderTest, provider: Upstream) -> None:
    """The newer one, which the SDK asks for, refuses them for every model."""
    for fields in ({}, {"temperature": 0.5}, {"top_p": 0.5}):
        worker.dispatch("chat", {**HI, **fields})
    versions = [received.headers["anthropic-version"] for received in provider.requests]
    assert versions[1:] == ["2023-06-01"] * 2
    assert versions[0] > "2023-06-01"


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "look"}}, "parallel_tool_calls": True},
            {"type": "tool", "name": "look"},
        ),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": True}, None),
    ],
)
def test_each_tool_choice_has_its_word(
    worker: WorkerUnderTest, provider: Upstream, fields: dict[str, Any], sent: dict[str, Any] | None
) -> None:
    worker.dispatch("chat", {**HI, "tools": [TOOL], **fields})
    assert provider.last_request.body.get("tool_choice") == sent


def test_what_a_session_of_claude_code_has_reaches_the_provider(worker: WorkerUnderTest, provider: Upstream) -> None:
    """Cache markers, reasoning with its signature, a document, an image in a failed tool's result, the budget."""
    marker = {"type": "ephemeral"}
    signed = {"type": "reasoning", "text": "Hm.", "signature": "s1", "format": "anthropic"}
    foreign = {"type": "reasoning", "text": "So.", "signature": "s2", "format": "gemini"}
    call = {"id": "c0", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    pdf = {"type": "file", "file": {"url": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}}
    request = {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": marker}]},
            {"role": "user", "content": [pdf]},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": [signed, foreign]},
            {"role": "tool", "tool_call_id": "c0", "content": [image], "is_error": True, "cache_control": marker},
        ],
        "tools": [{**TOOL, "cache_control": marker}],
        "reasoning": {"budget_tokens": 2000, "summary": "auto"},
        "top_k": 5,
        "max_tokens": 4000,
    }
    response = worker.dispatch("chat", request)
    assert response["ignored"] == ["messages[].reasoning", "top_k"]
    body = provider.last_request.body
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": marker}]
    assert body["tools"][0]["cache_control"] == marker
    assert "top_k" not in body
    document = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    png = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "document", "source": document, "title": "a.pdf"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s1"},
                {"type": "tool_use", "id": "c0", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c0",
                    "content": [{"type": "image", "source": png}],
                    "is_error": True,
                    "cache_control": marker,
                }
            ],
        },
    ]


def test_an_image_that_is_sent_as_a_file_stays_an_image(worker: WorkerUnderTest, provider: Upstream) -> None:
    """Vercel's `ai` 6 sends images in results of tools so."""
    file = {"url": f"data:image/png;base64,{PIXEL}", "filename": "a.png"}
    worker.dispatch("chat", user([{"type": "file", "file": file}]))
    (block,) = provider.last_request.body["messages"][0]["content"]
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    assert block == {"type": "image", "source": source}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": ["number", "null"]}, {"anyOf": [{"type": "number"}, {"type": "null"}]}),
        ({"type": ["string", "null"], "enum": ["a", None]}, {"enum": ["a", None]}),
        (
            {"type": ["array", "null"], "description": "d", "items": {"properties": {}}},
            {
                "description": "d",
                "anyOf": [
                    {"type": "array", "items": {"type": "object", "properties": {}, "additionalProperties": False}},
                    {"type": "null"},
                ],
            },
        ),
        ({"$ref": "#/definitions/city"}, {"$ref": "#/$defs/city"}),
    ],
)
def test_schemas_that_clients_write_are_respelled_for_the_sdk(
    worker: WorkerUnderTest, provider: Upstream, part: dict[str, Any], expected: dict[str, Any]
) -> None:
    """zod writes lists of types for `nullable`, and `definitions`; the SDK's own conversion fails on them."""
    schema = {"type": "object", "properties": {"n": part}, "definitions": {"city": {"type": "string"}}}
    response_format = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    worker.dispatch("chat", {**HI, "response_format": response_format})
    sent = provider.last_request.body["output_config"]["format"]["schema"]
    assert (sent["properties"]["n"], sent["$defs"]) == (expected, {"city": {"type": "string"}})


def test_json_without_a_schema_is_an_instruction(worker: WorkerUnderTest, provider: Upstream) -> None:
    worker.dispatch("chat", {**HI, "response_format": {"type": "json_object"}, "presence_penalty": 0})
    assert "one JSON object" in provider.last_request.body["system"][0]["text"]


@pytest.mark.parametrize(
    ("request_", "field", "told"),
    [
        ({**HI, "temperature": 1.5}, "temperature", "0 to 1"),
        ({**HI, "seed": 1, "unsupported": "refuse"}, "seed", "leave it out"),
        (
            {**HI, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"not": {}}}}},
            "response_format.json_schema.schema",
            "does not accept this schema",
        ),
        (
            user([{"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}}]),
            "messages[0].content[0].image_url.url",
            "image/png",
        ),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages", "beside the instructions"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(
    worker: WorkerUnderTest, provider: Upstream, request_: dict[str, Any], field: str, told: str
) -> None:
    error = worker.error_of("chat", request_)
    assert isinstance(error, InvalidInput)
    assert error.param == field
    assert told in error.message
    assert provider.requests == []


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
    ],
)
def test_each_stop_reason_has_its_finish_reason(
    worker: WorkerUnderTest, provider: Upstream, reason: str, finish: str
) -> None:
    provider.respond_with(stream(START, stop(reason)))
    response = worker.chat("Hi")
    assert response.finish_reason == finish
    assert response.usage == Usage(prompt_tokens=5, completion_tokens=3, total_tokens=8)


def test_a_refusal_comes_with_what_is_said_about_it(worker: WorkerUnderTest, provider: Upstream) -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "I will not"}
    provider.respond_with(stream(START, stop("refusal", stop_details=details)))
    response = worker.chat("Hi")
    assert (response.refusal, response.finish_reason) == ("I will not", "content_filter")


def test_cached_tokens_count_as_tokens_of_the_prompt(worker: WorkerUnderTest, provider: Upstream) -> None:
    """Anthropic counts them apart from the others."""
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 300, "output_tokens": 1}
    provider.respond_with(
        stream({"type": "message_start", "message": {"model": "m", "usage": usage}}, stop("end_turn"))
    )
    assert worker.chat("Hi").usage == Usage(
        prompt_tokens=321, completion_tokens=3, total_tokens=324, cached_tokens=300, cache_write_tokens=20
    )


def test_what_is_no_part_of_an_answer_is_passed_over(worker: WorkerUnderTest, provider: Upstream) -> None:
    """Pings, and kinds of events that come one day; thinking is reasoning, with its signature."""
    provider.respond_with(
        stream(
            START,
            {"type": "ping"},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "something_new", "delta": {"text": "no"}},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "He"}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "llo"}},
            {"type": "content_block_stop", "index": 1},
            stop("end_turn"),
            {"type": "message_stop"},
        )
    )
    response = worker.chat("Hi")
    assert response.text == "Hello"
    assert response.content[0] == ReasoningPart(text="hm", signature="s", format="anthropic")


def test_a_call_without_arguments_has_an_empty_object(worker: WorkerUnderTest, provider: Upstream) -> None:
    block = {"type": "tool_use", "id": "c1", "name": "now", "input": {}}
    empty = {"type": "input_json_delta", "partial_json": ""}
    provider.respond_with(
        stream(
            START,
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": empty},
            {"type": "content_block_stop", "index": 0},
            stop("tool_use"),
        )
    )
    (call,) = worker.chat("Hi").tool_calls
    assert call.function == FunctionCall(name="now", arguments="{}")


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (Status(403), UpstreamAuth, "check the handler's secret"),
        (Status(404, "no such model"), UpstreamBadRequest, "no such model"),
        (Status(413, "too long"), UpstreamBadRequest, "too long"),
        (Status(400, "Output blocked by content filtering policy"), ContentRefused, "Output blocked"),
        (Status(529), UpstreamOverloaded, "529"),
        (Status(502, html="<html>Bad Gateway</html>"), UpstreamError, "text/html"),
        (Status(200, html="<html>Welcome</html>"), UpstreamError, "text/html"),
    ],
)
def test_a_providers_refusal_becomes_the_hosts_error(
    worker: WorkerUnderTest, provider: Upstream, status: Status, kind: type[HostError], told: str
) -> None:
    provider.respond_with(status)
    error = worker.error_of("chat", HI)
    assert type(error) is kind
    assert told in error.message
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        ("overloaded_error", UpstreamOverloaded),
        ("rate_limit_error", UpstreamRateLimited),
        ("authentication_error", UpstreamAuth),
        ("invalid_request_error", UpstreamBadRequest),
        ("timeout_error", UpstreamTimeout),
        ("api_error", UpstreamError),
        ("something_new", UpstreamError),
    ],
)
def test_an_error_within_a_stream_is_the_same_as_with_a_status(
    worker: WorkerUnderTest, provider: Upstream, type_: str, kind: type[HostError]
) -> None:
    provider.respond_with(stream(START, {"type": "error", "error": {"type": type_, "message": "no"}}))
    assert type(worker.error_of("chat", HI)) is kind


def test_retries_are_bounded_and_end_with_the_first_chunk() -> None:
    with gpt_b(retries=2) as (worker, provider):
        soon = Status(529, retry_after=0)
        provider.respond_with(soon, soon, Reply())
        assert worker.chat("Hi").text == "Hello you"
        assert len(provider.requests) == 3
        provider.respond_with(soon)
        assert isinstance(worker.error_of("chat", HI), UpstreamOverloaded)
        assert len(provider.requests) == 6
        # It begins, and then says that it is overloaded: nothing of an answer has been passed on.
        overloaded = stream(START, {"type": "error", "error": {"type": "overloaded_error", "message": "no"}})
        provider.respond_with(overloaded, Reply())
        assert worker.chat("Hi").text == "Hello you"
        assert len(provider.requests) == 8
        provider.respond_with(Reply().with_fault("cut"))
        assert isinstance(worker.error_of("chat", HI), UpstreamError)
        assert len(provider.requests) == 9


def test_tokens_are_counted_by_the_provider(worker: WorkerUnderTest, provider: Upstream) -> None:
    request = {**user("one two three"), "tools": [TOOL], "max_tokens": 5, "temperature": 0.5}
    assert worker.dispatch("count_tokens", request) == {"input_tokens": 3}
    assert provider.last_request.path == "/v1/messages/count_tokens"
    assert set(provider.last_request.body) == {"model", "messages", "tools"}
    assert isinstance(worker.error_of("count_tokens", {"messages": []}), InvalidInput)
    provider.key = "another"
    try:
        assert isinstance(worker.error_of("count_tokens", request), UpstreamAuth)
    finally:
        provider.key = None


def test_missing_key_is_named_at_activation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    assert "ANTHROPIC_API_KEY" not in os.environ
    with worker_under_test("gpt_b") as worker:
        error = worker.error_of("chat", HI)
        assert isinstance(error, ActivationFailed)
        assert "ANTHROPIC_API_KEY" in error.message
        assert "base_url" in error.message


def test_a_server_without_a_key_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with Upstream().run() as provider, worker_under_test("gpt_b", {"base_url": provider.url}) as worker:
        assert worker.chat("Hi").text == "Hello you"
        assert provider.last_request.key == "no-key"
