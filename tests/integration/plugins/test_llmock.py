"""The handlers of Anthropic's and Google's SDKs in front of llmock, an upstream that nobody here wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from handler_host.chat import accumulate
from handler_host.plugin import (
    HostError,
    UpstreamAuth,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from handler_host.testing import WorkerUnderTest, worker_under_test
from tests.integration.plugins.bodies import HI
from tests.llmock import Llmock, llmock


class Case(NamedTuple):
    """A handler, llmock's path of its protocol, its secret, its settings."""

    name: str
    path: str
    secret: str
    settings: dict[str, Any]


CASES = {
    "gpt_b": Case("gpt_b", "/anthropic", "ANTHROPIC_API_KEY", {}),
    "google-generativeai": Case("gpt_c", "/gemini", "GEMINI_API_KEY", {"sdk": "google-generativeai"}),
    "google-genai": Case("gpt_c", "/gemini", "GEMINI_API_KEY", {"sdk": "google-genai"}),
}


@pytest.fixture(scope="module")
def mock() -> Iterator[Llmock]:
    with llmock() as server:
        yield server


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def worker(request: pytest.FixtureRequest, mock: Llmock) -> Iterator[WorkerUnderTest]:
    name, path, secret, settings = request.param
    keys = {**settings, "base_url": mock.url + path, "retries": 0}
    with worker_under_test(name, keys, secrets={secret: "a-key"}) as running:
        yield running


def test_plain_response_and_stream(mock: Llmock, worker: WorkerUnderTest) -> None:
    mock.fail()
    response = worker.chat("Hello!")
    assert response.text
    assert response.finish_reason == "stop"
    assert response.usage is not None
    assert response.usage.completion_tokens > 0
    assert accumulate(worker.chat_chunks("Hello!")).text == response.text


def test_tool_call(mock: Llmock, worker: WorkerUnderTest) -> None:
    mock.fail({"type": "reply", "tool_calls": [{"name": "look", "arguments": {"at": "x"}}]})
    response = worker.chat("Look!", tools=[{"type": "function", "function": {"name": "look"}}])
    (call,) = response.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": "x"})
    assert (bool(call.id), response.finish_reason) == (True, "tool_calls")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"type": "fail", "status": 401}, UpstreamAuth),
        ({"type": "fail", "status": 429, "retry_after": 30}, UpstreamRateLimited),
        ({"type": "fail", "status": 503}, UpstreamOverloaded),
        ({"type": "fail", "status": 529}, UpstreamOverloaded),
        ({"type": "fail", "status": 500}, UpstreamError),
        ({"type": "stream_fault", "kind": "disconnect", "after_chunks": 3}, UpstreamUnreachable),
        ({"type": "stream_fault", "kind": "truncate", "after_chunks": 3}, UpstreamError),
        ({"type": "stream_fault", "kind": "malformed", "after_chunks": 3}, UpstreamError),
    ],
    ids=lambda value: "-".join(str(each) for each in list(value.values())[1:]) if isinstance(value, dict) else "",
)
def test_faults(mock: Llmock, worker: WorkerUnderTest, fault: dict[str, Any], kind: type[HostError]) -> None:
    mock.fail(fault)
    with pytest.raises(HostError) as caught:
        list(worker.dispatch_stream("chat", HI))
    error = caught.value
    assert type(error) is kind
    assert len(mock.requests) == 1
    assert error.retry_after == fault.get("retry_after", error.retry_after)
