"""The Anthropic-compatible routes, asked by raw HTTP and by Anthropic's own SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.integration.http.serving import PARROT, Host, events, running
from tests.support import install_plugin

COUNTING = '''
from handler_host.chat import ChatHandler, ChatRequest, TokenCount
from handler_host.plugin.errors import InvalidInput
from handler_host.plugin import operation

class Handler(ChatHandler):
    """Counts words, and sees no image."""

    async def stream(self, request):
        raise InvalidInput("messages[1].content[0]: no images", param="messages[1].content[0]")
        yield

    @operation("count_tokens")
    async def count_tokens(self, request: ChatRequest) -> TokenCount:
        return TokenCount(input_tokens=len(request.last_text().split()))
'''
VERSION = {"anthropic-version": "2026-10-21"}


@asynccontextmanager
async def parrot(root: Path, **options: Any) -> AsyncIterator[tuple[Host, anthropic.AsyncAnthropic]]:
    """Run a host with two chat handlers; give an Anthropic client of it too."""
    install_plugin(root, "parrot", PARROT)
    install_plugin(root, "counter", COUNTING)
    async with running(root, **options) as host:
        keys = options.get("keys")
        async with anthropic.AsyncAnthropic(
            base_url=host.url, api_key=keys[0] if keys else "any", max_retries=0
        ) as client:
            yield host, client


def said(text: str, **fields: Any) -> dict[str, Any]:
    """Return the arguments of a message."""
    return {"model": "parrot", "max_tokens": 9, "messages": [{"role": "user", "content": text}], **fields}


async def test_the_sdk_chats_at_once_and_streamed(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (_, client):
        answer = await client.messages.create(**said("hello there"))
        assert [block.text for block in answer.content] == ["hello there "]
        assert (answer.stop_reason, answer.model, answer.type, answer.role) == (
            "end_turn",
            "parrot",
            "message",
            "assistant",
        )
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 2)
        assert answer._request_id is not None
        assert answer.id == f"msg_{answer._request_id}"
        async with client.messages.stream(**said("hello there")) as stream:
            texts = [text async for text in stream.text_stream]
            whole = await stream.get_final_message()
        assert texts == ["hello ", "there "]
        assert (whole.stop_reason, whole.usage.input_tokens, whole.usage.output_tokens) == ("end_turn", 3, 2)


async def test_the_sdk_gets_tool_calls_at_once_and_streamed(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (_, client):
        answer = await client.messages.create(**said("see TOOL"))
        async with client.messages.stream(**said("see TOOL")) as stream:
            whole = await stream.get_final_message()
        for message in (answer, whole):
            text, call = message.content
            assert isinstance(text, anthropic.types.TextBlock)
            assert text.text == "see "
            assert isinstance(call, anthropic.types.ToolUseBlock)
            assert (call.type, call.id, call.name, call.input) == ("tool_use", "call_1", "look", {"a": 1})
            assert message.stop_reason == "tool_use"


async def test_a_refusal_is_a_stop_reason_with_details(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (_, client):
        async with client.messages.stream(**said("NO")) as stream:
            whole = await stream.get_final_message()
        for answer in (await client.messages.create(**said("NO")), whole):
            assert answer.stop_reason == "refusal"
            assert answer.stop_details is not None
            assert answer.stop_details.explanation == "I will not"


async def test_what_stands_after_the_slash_is_the_handlers_matter(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (_, client):
        answer = await client.messages.create(**said("MODEL") | {"model": "parrot/big/one"})
        assert answer.content[0].text == "big/one"
        assert answer.model == "parrot/big/one"


async def test_errors_are_what_the_sdk_takes_them_for(tmp_path: Path) -> None:
    async with parrot(tmp_path, keys=("key-1",)) as (host, client):
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.messages.create(**said("x") | {"model": "nobody"})
        assert (missing.value.type, missing.value.error_code) == ("not_found_error", "model_not_found")
        with pytest.raises(anthropic.BadRequestError) as bad:
            await client.messages.create(**said("x", thinking={"type": "deep"}))
        assert bad.value.type == "invalid_request_error"
        assert bad.value.api_message is not None
        assert bad.value.api_message.startswith("thinking.type: ")
        with pytest.raises(anthropic.RateLimitError) as limited:
            await client.messages.create(**said("LIMIT"))
        assert limited.value.response.headers["retry-after"] == "7"
        with pytest.raises(anthropic.InternalServerError) as failed:
            await client.messages.create(**said("BOOM"))
        assert (failed.value.type, failed.value.error_code) == ("api_error", "handler_error")
        assert "secret" not in str(failed.value)
        assert failed.value.request_id == failed.value.response.headers["x-request-id"]
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await client.with_options(api_key="wrong").messages.create(**said("x"))
        assert refused.value.error_code == "invalid_key"
        assert host.supervisor.in_flight == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_unsupported_fields_are_named_or_refused(tmp_path: Path, stream: bool) -> None:
    """The host knows some before the dispatch, the handler reports the others with its first chunk."""
    search = {"type": "web_search_20250305", "name": "web_search"}
    body = said("x", stream=stream, tools=[search], top_k=5, thinking={"type": "adaptive"}, newer="t", speed="standard")
    async with parrot(tmp_path, keys=("key-1",)) as (host, _):
        headers = {"x-api-key": "key-1", **VERSION}
        async with host.ask("POST", "/v1/messages", json=body, headers=headers) as response:
            assert response.status == 200
            named = response.headers["x-ignored-fields"].split(", ")
        assert sorted(named) == ["newer", "thinking", "tools[].web_search_20250305", "top_k"]
        alone: dict[str, Any] = {"newer": None, "tools": [], "thinking": None}
        for field, rest in (("newer", dict[str, Any]()), ("top_k", alone)):
            strict = {**headers, "x-unsupported-fields": "refuse"}
            status, content = await host.json("POST", "/v1/messages", data=json.dumps({**body, **rest}), headers=strict)
            assert (status, content["error"]["details"]["param"]) == (400, field)


async def test_the_tool_runner_sends_all_messages_once_its_thread_is_refused(tmp_path: Path) -> None:
    """The SDK's runner asks for a thread by default, and would send the result of the tool alone to it."""

    @anthropic.beta_async_tool
    async def look(a: int) -> str:
        """Look."""
        return str(a)

    async with parrot(tmp_path) as (host, client):
        runner = client.beta.messages.tool_runner(**said("TOOL"), tools=[look], max_iterations=2)
        assert [message.stop_reason async for message in runner] == ["tool_use", "tool_use"]
        status, content = await host.json("POST", "/v1/messages", json=said("x", thread={"type": "create"}))
        assert (status, content["error"]["details"]) == (
            400,
            {"error_code": "thread_unsupported_request", "param": "thread"},
        )


async def test_the_key_may_come_in_the_older_sdks_header(tmp_path: Path) -> None:
    async with parrot(tmp_path, keys=("key-1",)) as (host, _):
        for key, expected in (("key-1", 200), ("key-2", 401)):
            headers = {"x-api-key": key, **VERSION}
            status, _ = await host.json("POST", "/v1/messages", data=json.dumps(said("x")), headers=headers)
            assert status == expected


async def test_an_error_before_the_first_chunk_has_its_status(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (_, client):
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(**said("LIMIT", stream=True))


async def test_an_error_in_a_stream_comes_without_a_message_stop(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (host, client):
        seen: list[str] = []
        stream = await client.messages.create(**said("one BOOM", stream=True))

        async def read() -> None:
            async for event in stream:
                seen.append(event.type)

        with pytest.raises(anthropic.APIStatusError) as raised:
            await read()
        assert raised.value.type == "api_error"
        assert seen == ["message_start", "content_block_start", "content_block_delta"]
        async with host.ask("POST", "/v1/messages", data=json.dumps(said("one BOOM", stream=True))) as answer:
            assert answer.headers["request-id"] == answer.headers["X-Request-ID"]
            name, last = events(await answer.text())[-1]
        assert (name, last["error"]["details"]["error_code"]) == ("error", "handler_error")


async def test_a_stream_is_what_anthropic_sends(tmp_path: Path) -> None:
    body = json.dumps(said("one", stream=True))
    async with parrot(tmp_path) as (host, _), host.ask("POST", "/v1/messages", data=body) as answer:
        assert answer.content_type == "text/event-stream"
        assert answer.headers["X-Handler"] == "parrot"
        received = events(await answer.text())
    assert [name for name, _ in received] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(data["type"] == name for name, data in received)


async def test_tokens_are_counted_where_the_handler_can(tmp_path: Path) -> None:
    messages: Any = [{"role": "user", "content": "one two three"}]
    async with parrot(tmp_path) as (_, client):
        assert (await client.messages.count_tokens(model="counter", messages=messages)).input_tokens == 3
        for model, code in (("parrot", "unknown_operation"), ("nobody", "model_not_found")):
            with pytest.raises(anthropic.NotFoundError) as raised:
                await client.messages.count_tokens(model=model, messages=messages)
            assert raised.value.error_code == code


async def test_openais_sdk_counts_tokens_by_the_same_operation(tmp_path: Path) -> None:
    async with (
        parrot(tmp_path) as (host, _),
        openai.AsyncOpenAI(base_url=f"{host.url}/v1", api_key="any", max_retries=0) as client,
    ):
        count = await client.responses.input_tokens.count(model="counter", input="one two three")
        assert (count.input_tokens, count.object) == (3, "response.input_tokens")
        with pytest.raises(openai.NotFoundError):
            await client.responses.input_tokens.count(model="parrot", input="one")


async def test_a_handlers_complaint_names_the_clients_own_field(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (_, client):
        for stream in (False, True):
            with pytest.raises(anthropic.BadRequestError) as raised:
                await client.messages.create(**said("x", system="y", stream=stream) | {"model": "counter"})
            assert raised.value.api_message == "messages[0]: no images"


async def test_a_wrong_request_activates_nothing(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (host, _):
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            status, answer = await host.json("POST", path, data='{"model": "parrot"}')
            assert (status, answer["type"]) == (400, "error")
        assert host.supervisor.status("parrot").state == "cold"


async def test_models_come_in_the_shape_of_who_asks(tmp_path: Path) -> None:
    async with parrot(tmp_path, keys=("key-1",)) as (host, client):
        models = [model async for model in client.models.list()]
        assert [(model.id, model.type, model.display_name) for model in models] == [
            ("counter", "model", "counter"),
            ("parrot", "model", "parrot"),
        ]
        assert (await client.models.retrieve("parrot/x")).id == "parrot/x"
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.models.retrieve("nobody")
        assert missing.value.error_code == "model_not_found"
        key = {"Authorization": "Bearer key-1"}
        _, listed = await host.json("GET", "/v1/models", headers=key)
        assert listed["object"] == "list"
        for headers, own in (({}, False), (VERSION, True)):
            status, refused = await host.json("GET", "/v1/models", headers=headers)
            assert (status, refused.get("type") == "error") == (401, own)
