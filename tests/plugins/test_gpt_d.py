"""gpt_d: the real LiteLLM in a real worker, over real HTTP, against a provider on loopback in three protocols."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from host.errors import (
    ContentRefused,
    HostError,
    InvalidInput,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamTimeout,
)
from host.testing import ChatConformance, Raw, Reply, Status, Upstream, WorkerUnderTest, worker_under_test

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
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


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

    def test_the_requests_model_is_the_one_that_is_asked(self) -> None:
        """A model string of LiteLLM's: its first part is the provider, and not sent."""
        self.worker.chat("Hi", model=f"{self.protocol}/another-model")
        assert self.upstream.last.asked.model == "another-model"


class TestOpenAI(OverLiteLLM):
    protocol = "openai"


class TestAnthropic(OverLiteLLM):
    protocol = "anthropic"
    refuses = frozenset({"seed", "presence_penalty", "frequency_penalty"})
    impatient: ClassVar[Mapping[str, Any]] = {}


class TestGemini(OverLiteLLM):
    protocol = "gemini"
    refuses = frozenset({"user", "parallel_tool_calls"})


@contextmanager
def gpt_d(**settings: Any) -> Iterator[tuple[WorkerUnderTest, Upstream]]:
    """Run the handler in front of a provider."""
    with Upstream().running() as provider:
        keys = {"api_base": bases(provider), "retries": 0, **settings}
        with worker_under_test("gpt_d", keys, secrets=SECRETS) as worker:
            yield worker, provider


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[WorkerUnderTest, Upstream]]:
    with gpt_d(model="openai/configured", headers={"X-Team": "blue"}, retries=2) as found:
        yield found


@pytest.fixture
def worker(running: tuple[WorkerUnderTest, Upstream]) -> WorkerUnderTest:
    return running[0]


@pytest.fixture
def provider(running: tuple[WorkerUnderTest, Upstream]) -> Upstream:
    running[1].reset()
    return running[1]


def test_every_field_of_a_request_reaches_openai_as_it_is(worker: WorkerUnderTest, provider: Upstream) -> None:
    request = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            },
            {
                "role": "assistant",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 10,
        "stop": ["x"],
        "seed": 1,
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "user": "u",
    }
    worker.ask("chat", request)
    assert provider.last.body == {
        **request,
        "model": "configured",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert provider.last.key == SECRETS["OPENAI_API_KEY"]
    assert provider.last.headers["X-Team"] == "blue"


@pytest.mark.parametrize("protocol", MODELS)
def test_each_provider_gets_its_own_key(worker: WorkerUnderTest, provider: Upstream, protocol: Any) -> None:
    assert worker.chat("Hi", model=MODELS[protocol])["text"] == "Hello you"
    assert (provider.last.protocol, provider.last.key) == (protocol, SECRETS[f"{protocol.upper()}_API_KEY"])


def test_a_model_of_no_provider_is_refused_by_name(worker: WorkerUnderTest, provider: Upstream) -> None:
    error = worker.error_of("chat", {**ASK, "model": "nonsense"})
    assert (type(error), error.param) == (InvalidInput, "model")
    assert "PROVIDER/MODEL" in error.message
    assert provider.requests == []


def test_a_refusal_comes_through(worker: WorkerUnderTest, provider: Upstream) -> None:
    provider.say(Reply((), refusal="I will not", finish="content_filter"))
    answer = worker.chat("Hi")
    assert (answer.get("refusal"), answer["finish_reason"]) == ("I will not", "content_filter")


def test_tokens_that_the_provider_does_not_count_are_not_made_up(worker: WorkerUnderTest, provider: Upstream) -> None:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = [{"delta": {"content": "Hello"}}, {"delta": {}, "finish_reason": "stop"}]
    events = [json.dumps({**chunk, "choices": [{"index": 0, **choice}]}) for choice in said]
    provider.say(Raw((*(f"data: {event}\n\n".encode() for event in events), b"data: [DONE]\n\n")))
    assert worker.chat("Hi") == {"text": "Hello", "finish_reason": "stop", "usage": None, "model": "m"}


@pytest.mark.parametrize("protocol", MODELS)
@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (Status(403, "your key sk-a-very is wrong"), UpstreamAuth, "check the handler's secret"),
        (Status(404, "no such model"), UpstreamBadRequest, "no such model"),
        (Status(408, "too slow"), UpstreamTimeout, "too slow"),
        (Status(529, "too much", retry_after=37), UpstreamOverloaded, "too much"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Status) else None,
)
def test_a_providers_own_status_counts_whatever_litellm_makes_of_it(
    worker: WorkerUnderTest, provider: Upstream, protocol: Any, status: Status, kind: type[HostError], told: str
) -> None:
    provider.say(status)
    error = worker.error_of("chat", {**ASK, "model": MODELS[protocol]})
    assert type(error) is kind
    assert told in error.message
    assert "sk-a-very" not in error.message
    assert error.retry_after == status.retry_after


def test_content_that_openai_refuses_and_the_field_it_names_are_told(
    worker: WorkerUnderTest, provider: Upstream
) -> None:
    provider.say(Status(400, "not this", code="content_filter"))
    assert type(worker.error_of("chat", ASK)) is ContentRefused
    provider.say(Status(400, "too long", param="messages[0]"))
    assert worker.error_of("chat", ASK).param == "messages[0]"


@pytest.mark.parametrize("protocol", MODELS)
def test_retries_are_made_in_one_place_within_bounds(
    worker: WorkerUnderTest, provider: Upstream, protocol: Any
) -> None:
    soon = Status(503, retry_after=0)
    provider.say(soon, soon, Reply())
    assert worker.chat("Hi", model=MODELS[protocol])["text"] == "Hello you"
    assert len(provider.requests) == 3
    provider.say(soon)
    assert type(worker.error_of("chat", {**ASK, "model": MODELS[protocol]})) is UpstreamOverloaded
    assert len(provider.requests) == 6
    provider.say(Reply().breaking("cut"))
    assert isinstance(worker.error_of("chat", {**ASK, "model": MODELS[protocol]}), UpstreamError)
    assert len(provider.requests) == 7
