"""The OpenAI-compatible routes, asked by raw HTTP and by OpenAI's own SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.http.serving import PARROT, Host, events, running
from tests.support import install_plugin, install_puppet


@asynccontextmanager
async def parrot(root: Path, **options: Any) -> AsyncIterator[tuple[Host, openai.AsyncOpenAI]]:
    """Run a host with a chat handler; give an OpenAI client of it too."""
    install_plugin(root, "parrot", PARROT)
    async with running(root, **options) as host:
        keys = options.get("keys")
        async with openai.AsyncOpenAI(
            base_url=f"{host.url}/v1", api_key=keys[0] if keys else "any", max_retries=0
        ) as client:
            yield host, client


def said(text: str, **fields: Any) -> dict[str, Any]:
    """Return the arguments of a chat with one message."""
    return {"model": "parrot", "messages": [{"role": "user", "content": text}], **fields}


async def test_the_sdk_chats_at_once_and_streamed(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (_, client):
        answer = await client.chat.completions.create(**said("hello there"))
        assert answer.choices[0].message.content == "hello there "
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.total_tokens == 5
        assert answer.model == "parrot"
        options = {"stream": True, "stream_options": {"include_usage": True}}
        stream = await client.chat.completions.create(**said("hello there", **options))
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "hello there "
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 5


async def test_the_sdk_gets_tool_calls_at_once_and_streamed(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (_, client):
        answer = await client.chat.completions.create(**said("TOOL"))
        (call,) = answer.choices[0].message.tool_calls
        assert (call.id, call.type, call.function.name, call.function.arguments) == (
            "call_1",
            "function",
            "look",
            '{"a": 1}',
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        async with client.chat.completions.stream(**said("TOOL")) as stream:
            whole = await stream.get_final_completion()
        assert whole.choices[0].message.tool_calls is not None
        assert whole.choices[0].message.tool_calls[0].function.arguments == '{"a": 1}'


async def test_what_stands_after_the_slash_is_the_handlers_matter(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (_, client):
        answer = await client.chat.completions.create(**said("MODEL") | {"model": "parrot/big/one"})
        assert answer.choices[0].message.content == "big/one"
        assert answer.model == "parrot/big/one"


async def test_errors_are_what_the_sdk_takes_them_for(tmp_path: Path) -> None:
    async with parrot(tmp_path, keys=("key-1",)) as (host, client):
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(**said("x") | {"model": "nobody"})
        assert missing.value.code == "model_not_found"
        assert missing.value.param == "model"
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(**said("x", n=2))
        assert (bad.value.param, bad.value.type) == ("n", "invalid_request_error")
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(**said("LIMIT"))
        assert limited.value.response.headers["retry-after"] == "7"
        assert limited.value.response.headers["x-should-retry"] == "true"
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(**said("BOOM"))
        assert failed.value.code == "handler_error"
        assert "secret" not in str(failed.value)
        assert failed.value.request_id is not None
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()
        assert host.supervisor.in_flight == 0


async def test_an_error_before_the_first_chunk_has_its_status(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (_, client):
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**said("LIMIT", stream=True))


async def test_an_error_in_a_stream_comes_without_a_done(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (host, client):
        stream = await client.chat.completions.create(**said("one BOOM", stream=True))
        seen: list[str | None] = []

        async def read() -> None:
            async for chunk in stream:
                seen.append(chunk.choices[0].delta.content)

        with pytest.raises(openai.APIError, match="chat failed"):
            await read()
        assert "one " in seen
        async with host.ask("POST", "/v1/chat/completions", data=json.dumps(said("one BOOM", stream=True))) as answer:
            received = events(await answer.text())
        assert received[-1][1]["error"]["code"] == "handler_error"
        assert ("message", "[DONE]") not in received


async def test_a_whole_stream_ends_with_done(tmp_path: Path) -> None:
    body = json.dumps(said("one", stream=True))
    async with parrot(tmp_path) as (host, _), host.ask("POST", "/v1/chat/completions", data=body) as answer:
        assert answer.content_type == "text/event-stream"
        assert answer.headers["X-Handler"] == "parrot"
        assert events(await answer.text())[-1] == ("message", "[DONE]")


async def test_a_wrong_request_activates_nothing(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (host, _):
        status, answer = await host.json("POST", "/v1/chat/completions", data='{"model": "parrot"}')
        assert (status, answer["error"]["param"]) == (400, "messages")
        assert host.supervisor.status("parrot").state == "cold"


async def test_models_are_the_handlers_that_chat_or_may(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_plugin(tmp_path, "locked", "class Handler: ...", manifest="[secrets.LOCKED_KEY]\n")
    async with parrot(tmp_path) as (host, client):
        assert {model.id async for model in client.models.list()} == {"parrot", "puppet"}
        await host.supervisor.load("puppet")
        await host.supervisor.load("parrot")
        models = [model async for model in client.models.list()]
        assert [(model.id, model.owned_by, model.object) for model in models] == [("parrot", "parrot", "model")]
        assert (await client.models.retrieve("parrot")).id == "parrot"
        for absent in ("puppet", "nobody", "locked"):
            with pytest.raises(openai.NotFoundError) as missing:
                await client.models.retrieve(absent)
            assert missing.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(**said("x") | {"model": "puppet"})


async def test_unknown_models_offer_only_handlers_that_chat(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with parrot(tmp_path) as (host, client):
        await host.supervisor.load("puppet")  # now it is known that it has no chat
        for ask in (
            client.models.retrieve("nobody"),
            client.chat.completions.create(**said("x") | {"model": "nobody/large"}),
            client.chat.completions.create(**said("x") | {"model": "nobody"}, stream=True),
        ):
            with pytest.raises(openai.NotFoundError) as missing:
                await ask
            message = missing.value.body["message"]  # type: ignore[index]
            assert message.startswith("unknown handler 'nobody'; handlers that chat: parrot (")


async def test_a_handler_whose_chat_is_none_is_an_error_and_no_crash(tmp_path: Path) -> None:
    source = """
from handler_host.plugin import operation
class Handler:
    @operation
    async def chat(self, request: dict):
        yield 5
"""
    install_plugin(tmp_path, "odd", source)
    async with running(tmp_path) as host:
        for stream in (False, True):
            data = json.dumps(said("x", stream=stream) | {"model": "odd"})
            status, answer = await host.json("POST", "/v1/chat/completions", data=data)
            assert (status, answer["error"]["code"]) == (500, "handler_error")


async def test_the_sdk_completes_prompts(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (_, client):
        whole = await client.completions.create(model="parrot", prompt="hello there", max_tokens=9)
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("hello there ", "stop")
        assert whole.usage is not None
        assert whole.usage.total_tokens == 5
        stream = await client.completions.create(model="parrot", prompt="hello there", stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "hello there "
        assert chunks[-1].choices[0].finish_reason == "stop"
