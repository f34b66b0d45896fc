"""The handlers on providers' SDKs in front of aimock, an upstream from npm that nobody here wrote."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.providers import aimock, free_port, wait_for_port
from handler_host.chat import FinishChunk, TextChunk
from handler_host.plugin import UpstreamAuth, UpstreamRateLimited
from handler_host.testing import WorkerUnderTest, worker_under_test

KEY = "a-key-that-aimock-knows"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
FIXTURES = [
    {"match": {"userMessage": "hello"}, "response": {"content": "Hello from nobody here."}},
    {
        "match": {"userMessage": "look"},
        "response": {"toolCalls": [{"name": "look", "arguments": json.dumps({"at": "the sun"})}]},
    },
    {
        "match": {"userMessage": "busy"},
        "response": {"error": {"message": "slow down", "type": "rate_limit_error"}, "status": 429, "retryAfter": 41},
    },
]
SECRETS = {
    "gpt_a": "OPENAI_API_KEY",
    "gpt_b": "ANTHROPIC_API_KEY",
    "gpt_c": "GEMINI_API_KEY",
    "google-genai": "GEMINI_API_KEY",
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "gemini": "GEMINI_API_KEY",
}
"""By handler, by SDK of gpt_c, and by provider of gpt_d."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = aimock()
    if program is None:
        pytest.skip("aimock is not available: node is missing, or npm has no registry")
    fixtures: Path = tmp_path_factory.mktemp("aimock") / "fixtures.json"
    fixtures.write_text(json.dumps({"fixtures": FIXTURES}))
    port = free_port()
    command = ["node", str(program), "-h", "127.0.0.1", "-p", str(port), "-f", str(fixtures), "--log-level", "silent"]
    process = subprocess.Popen(
        [*command, "--chunk-size", "6"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "AIMOCK_API_KEYS": KEY},
    )
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def settings(name: str, url: str) -> tuple[str, dict[str, Any]]:
    """Return the handler and how it is configured."""
    if name in ("gpt_a", "gpt_b", "gpt_c"):
        return name, {"base_url": f"{url}/v1" if name == "gpt_a" else url}
    if name == "google-genai":
        return "gpt_c", {"base_url": url, "sdk": name}
    model, base = {
        "openai": ("openai/gpt-4o", f"{url}/v1"),
        "anthropic": ("anthropic/claude-sonnet-4-5", url),
        "gemini": ("gemini/gemini-2.5-flash", f"{url}/v1beta"),
    }[name]
    return "gpt_d", {"model": model, "api_base": {name: base}}


def behind(name: str, url: str, key: str) -> Any:
    handler, keys = settings(name, url)
    return worker_under_test(handler, {**keys, "retries": 0}, secrets={SECRETS[name]: key})


@pytest.fixture(scope="module", params=SECRETS)
def worker(request: pytest.FixtureRequest, url: str) -> Iterator[WorkerUnderTest]:
    with behind(request.param, url, KEY) as found:
        yield found


def test_its_answers_are_understood(worker: WorkerUnderTest) -> None:
    assert worker.chat("hello").text == "Hello from nobody here."
    chunks = list(worker.chat_chunks("hello"))
    texts = [chunk.text for chunk in chunks if isinstance(chunk, TextChunk)]
    assert "".join(texts) == "Hello from nobody here."
    assert len(texts) > 1
    assert [chunk.reason for chunk in chunks if isinstance(chunk, FinishChunk)] == ["stop"]


def test_its_tool_calls_are_understood(worker: WorkerUnderTest) -> None:
    response = worker.chat("look", tools=[TOOL])
    (call,) = response.tool_calls
    assert response.finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": "the sun"})


def test_its_limit_comes_with_the_time_to_wait(worker: WorkerUnderTest) -> None:
    error = worker.error_of("chat", {"messages": [{"role": "user", "content": "busy"}]})
    assert isinstance(error, UpstreamRateLimited), error
    assert error.retry_after == 41


@pytest.mark.parametrize("name", ["gpt_a", "gpt_b", "gpt_c", "google-genai", "anthropic"])
def test_a_key_that_it_does_not_know_is_a_wrong_key(url: str, name: str) -> None:
    with behind(name, url, "another-key") as worker:
        error = worker.error_of("chat", {"messages": [{"role": "user", "content": "hello"}]})
        assert isinstance(error, UpstreamAuth), error
        assert "another-key" not in error.message
