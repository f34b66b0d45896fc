"""gpt_a: the real OpenAI SDK in a real worker, over real HTTP, against a provider on loopback."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from host.errors import (
    ActivationFailed,
    ContentRefused,
    UpstreamAuth,
    UpstreamBadRequest,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tests.plugins.upstream import USAGE, WHOLE, Upstream, chunk, upstream
from tests.support import Bench, bench, error_of, within

KEY = "sk-a-very-secret-key"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


@asynccontextmanager
async def gpt_a(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[Bench, Upstream]]:
    """Run the handler in front of a provider."""
    async with upstream() as provider:
        keys = {"base_url": provider.url, "retries": 0, "timeout": 5.0, **settings}
        environ = {**os.environ, "OPENAI_API_KEY": KEY}
        async with bench(tmp_path, handlers={"gpt_a": keys}, environ=environ, installed=True) as host:
            yield host, provider


async def test_an_answer_comes_whole_and_in_pieces_with_usage_model_and_finish_reason(tmp_path: Path) -> None:
    async with gpt_a(tmp_path) as (host, provider):
        provider.script = [provider.chunks(*WHOLE)]
        answer = await within(host.ask("gpt_a", "chat", **ASK))
        assert answer == {"text": "Hello you", "finish_reason": "stop", "usage": USAGE, "model": "served-model"}
        pieces = [piece async for piece in host.pieces("gpt_a", "chat", **ASK)]
        assert [piece["text"] for piece in pieces if "text" in piece] == ["Hello", " you"]
        assert [piece["finish_reason"] for piece in pieces if "finish_reason" in piece] == ["stop"]
        assert [piece["usage"] for piece in pieces if "usage" in piece] == [USAGE]


async def test_every_field_of_a_request_reaches_the_provider(tmp_path: Path) -> None:
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
    async with gpt_a(tmp_path, model="configured", headers={"X-Team": "blue"}) as (host, provider):
        provider.script = [provider.chunks(*WHOLE)]
        await within(host.ask("gpt_a", "chat", **request))
        await within(host.ask("gpt_a", "chat", **request, model="asked"))
    sent, again = provider.bodies
    assert sent == {**request, "model": "configured", "stream": True, "stream_options": {"include_usage": True}}
    assert again["model"] == "asked"
    assert provider.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert provider.headers[0]["X-Team"] == "blue"


async def test_tool_calls_and_refusals_come_through(tmp_path: Path) -> None:
    first = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a"'}}
    second = {"index": 0, "function": {"arguments": ": 1}"}}
    async with gpt_a(tmp_path) as (host, provider):
        provider.script = [
            provider.chunks(chunk(tool_calls=[first]), chunk(tool_calls=[second]), chunk(finish="tool_calls"))
        ]
        answer = await within(host.ask("gpt_a", "chat", **ASK))
        assert answer["finish_reason"] == "tool_calls"
        (call,) = answer["tool_calls"]
        assert (call["id"], call["function"]) == ("c1", {"name": "look", "arguments": '{"a": 1}'})
        provider.script = [provider.chunks(chunk(refusal="I will not"), chunk(finish="content_filter"))]
        answer = await within(host.ask("gpt_a", "chat", **ASK))
        assert (answer["refusal"], answer["finish_reason"]) == ("I will not", "content_filter")


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (401, {"message": f"Incorrect API key provided: {KEY}"}, UpstreamAuth, "check the handler's secret"),
        (403, None, UpstreamAuth, "403"),
        (400, {"message": "no such field", "param": "messages[0]"}, UpstreamBadRequest, "no such field"),
        (404, {"message": "no such model"}, UpstreamBadRequest, "no such model"),
        (400, {"message": "not this", "code": "content_filter"}, ContentRefused, "not this"),
        (500, None, UpstreamError, "500"),
        (502, "<html>Bad Gateway</html>", UpstreamError, "text/html"),
        (503, None, UpstreamOverloaded, "503"),
        (529, None, UpstreamOverloaded, "529"),
    ],
)
async def test_a_providers_refusal_becomes_the_hosts_error(
    tmp_path: Path, status: int, body: Any, kind: type[UpstreamError], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with gpt_a(tmp_path) as (host, provider):
            provider.script = [provider.status(status, body)]
            error = await error_of(host.ask("gpt_a", "chat", **ASK))
            assert type(error) is kind
            assert told in error.message
            assert KEY not in error.message
            assert len(provider.bodies) == 1
            assert error.param == (body.get("param") if isinstance(body, dict) else None)
            provider.script = [provider.chunks(*WHOLE)]
            assert (await within(host.ask("gpt_a", "chat", **ASK)))["text"] == "Hello you"
    assert KEY not in caplog.text


async def test_a_rate_limit_comes_with_the_providers_own_patience(tmp_path: Path) -> None:
    async with gpt_a(tmp_path) as (host, provider):
        provider.script = [provider.status(429, None, Retry_After="17")]
        error = await error_of(host.ask("gpt_a", "chat", **ASK))
        assert isinstance(error, UpstreamRateLimited)
        assert error.retry_after == 17


async def test_what_can_pass_is_tried_again_within_bounds_and_never_after_the_first_piece(tmp_path: Path) -> None:
    async with gpt_a(tmp_path, retries=2) as (host, provider):
        soon = provider.status(503, None, Retry_After="0")
        provider.script = [soon, soon, provider.chunks(*WHOLE)]
        assert (await within(host.ask("gpt_a", "chat", **ASK)))["text"] == "Hello you"
        assert len(provider.bodies) == 3
        provider.script = [soon]
        assert isinstance(await error_of(host.ask("gpt_a", "chat", **ASK)), UpstreamOverloaded)
        assert len(provider.bodies) == 6
        provider.script = [provider.cut(chunk("Hel"))]
        assert isinstance(await error_of(host.ask("gpt_a", "chat", **ASK)), UpstreamError)
        assert len(provider.bodies) == 7


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("cut", UpstreamUnreachable),
        ("truncated", UpstreamError),
        ("malformed", UpstreamError),
        ("error event", UpstreamError),
        ("stall", UpstreamTimeout),
        ("html", UpstreamError),
    ],
)
async def test_a_stream_that_breaks_is_an_error_and_no_short_answer(
    tmp_path: Path, how: str, kind: type[UpstreamError]
) -> None:
    async with gpt_a(tmp_path, timeout=0.5) as (host, provider):
        provider.script = [
            {
                "cut": provider.cut(chunk("Hel")),
                "truncated": provider.chunks(chunk("Hel"), done=False),
                "malformed": provider.chunks(chunk("Hel"), '{"id": "chat'),
                "error event": provider.chunks(chunk("Hel"), {"error": {"message": "overheated"}}),
                "stall": provider.chunks(chunk("Hel"), None),
                "html": provider.status(200, "<html>a proxy</html>"),
            }[how]
        ]
        error = await error_of(host.ask("gpt_a", "chat", **ASK))
        assert type(error) is kind
        assert host.supervisor.status("gpt_a").generation == 1


async def test_a_provider_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with gpt_a(tmp_path, base_url="http://127.0.0.1:9/v1") as (host, _):
        error = await error_of(host.ask("gpt_a", "chat", **ASK))
        assert type(error) is UpstreamUnreachable


async def test_the_request_to_the_provider_is_closed_when_the_client_leaves(tmp_path: Path) -> None:
    async with gpt_a(tmp_path) as (host, provider):
        provider.script = [provider.chunks(chunk("Hel"), None)]
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in host.pieces("gpt_a", "chat", **ASK):
                begun.set()

        reading = host.begin(read())
        await within(begun.wait())
        reading.cancel()
        await asyncio.wait({reading})
        await within(provider.left.wait())


async def test_without_a_key_and_without_another_server_the_activation_says_what_to_set(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    async with bench(tmp_path, environ=environ, installed=True) as host:
        error = await error_of(host.ask("gpt_a", "chat", **ASK))
        assert isinstance(error, ActivationFailed)
        assert "OPENAI_API_KEY" in error.message
        assert "base_url" in error.message


async def test_a_setting_that_does_not_fit_the_manifest_is_named(tmp_path: Path) -> None:
    async with bench(tmp_path, handlers={"gpt_a": {"modle": "x"}}, installed=True) as host:
        error = await error_of(host.ask("gpt_a", "chat", **ASK))
        assert "did you mean 'model'?" in error.message
