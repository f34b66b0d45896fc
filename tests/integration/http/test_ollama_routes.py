"""Ollama's routes, by its own package and as Open WebUI and Home Assistant call them."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.integration.http.serving import PARROT, Host, running
from tests.support import install_plugin, within


@asynccontextmanager
async def parrot(root: Path, **options: Any) -> AsyncIterator[tuple[Host, ollama.AsyncClient]]:
    install_plugin(root, "parrot", PARROT)
    key = {"Authorization": "Bearer key-1"}
    async with running(root, **options) as host, ollama.AsyncClient(host=host.url, headers=key) as client:
        yield host, client


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_the_package_chats_whole_and_streamed(tmp_path: Path) -> None:
    async with parrot(tmp_path, keys=("key-1",)) as (_, client):
        whole = await client.chat(model="parrot", messages=user("hello there"))
        assert (whole.message.content, whole.done_reason, whole.model) == ("hello there ", "stop", "parrot")
        assert (whole.prompt_eval_count, whole.eval_count) == (3, 2)
        assert whole.load_duration is not None
        assert whole.load_duration > 0, "the first request has activated the handler"
        parts = [part async for part in await client.chat(model="parrot:latest", messages=user("a b"), stream=True)]
        assert [part.message.content for part in parts] == ["a ", "b ", ""]
        assert [part.done for part in parts] == [False, False, True]
        generated = await client.generate(model="parrot/big", prompt="MODEL")
        assert generated.response == "big"
        called = await client.chat(model="parrot", messages=user("TOOL"))
        (call,) = called.message.tool_calls or ()
        assert [model.model for model in (await client.ps()).models] == ["parrot"], "also for a key of a consumer"
        assert (call.function.name, call.function.arguments) == ("look", {"a": 1})


async def test_a_body_of_curl_needs_no_media_type(tmp_path: Path) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with parrot(tmp_path) as (host, _):
        for path, body in (
            ("/api/chat", {"messages": user("hello"), "stream": False}),
            ("/api/generate", {"prompt": "hello", "stream": False}),
            ("/api/show", {}),
        ):
            data = json.dumps({"model": "parrot", **body})
            async with host.ask("POST", path, data=data, headers=form) as response:
                assert response.status == 200
            async with host.ask("POST", path, data=data, headers={**form, "Origin": "https://a.example"}) as response:
                assert response.status == 403


async def test_errors_have_status_and_text_and_end_a_stream(tmp_path: Path) -> None:
    async with parrot(tmp_path, keys=("key-1",)) as (host, client):
        with pytest.raises(ollama.ResponseError) as missing:
            await client.chat(model="nobody", messages=user("x"))
        assert missing.value.status_code == 404
        assert missing.value.error.startswith("unknown handler 'nobody'; handlers that chat: parrot")
        stream = await client.chat(model="parrot", messages=user("a LIMIT"), stream=True)
        with pytest.raises(ollama.ResponseError) as failed:
            _ = [part async for part in stream]
        assert "slow down" in failed.value.error
        with pytest.raises(ollama.ResponseError, match="/api/pull is not supported"):
            await client.pull("parrot")
        with pytest.raises(ollama.ResponseError, match="/api/delete is not supported"):
            await client.delete("parrot")
        status, refused = await host.json("GET", "/api/tags")
        assert (status, refused["code"]) == (401, "invalid_key")


async def test_lists(tmp_path: Path) -> None:
    handlers = {"parrot": {"known_models": {"big": {"context_length": 1000, "capabilities": ["tools"]}}}}
    async with parrot(tmp_path, models={"fast": "parrot/big"}, handlers=handlers) as (host, client):
        listed = await client.list()
        assert [model.model for model in listed.models] == ["parrot", "parrot/big", "fast"]
        shown = await client.show("fast")
        assert shown.capabilities == ["completion", "tools"]
        assert shown.modelinfo is not None
        assert shown.modelinfo["parrot.context_length"] == 1000
        assert (await client.ps()).models == []
        status, version = await host.json("GET", "/api/version")
        assert (status, list(version)) == (200, ["version"])


async def test_keep_alive_sets_the_idle_time(tmp_path: Path) -> None:
    async with parrot(tmp_path, policy={"max_keep_alive": 600.0}) as (host, client):

        async def expires_in() -> float | None:
            (model,) = (await client.ps()).models
            assert model.expires_at is not None
            return (model.expires_at - datetime.datetime.now(datetime.UTC)).total_seconds()

        for keep_alive, seconds in (("2m", 120), (-1, 600), ("24h", 600), (None, 300)):
            await client.chat(model="parrot", messages=user("x"), keep_alive=keep_alive)
            left = await expires_in()
            assert left is not None
            assert seconds - 20 < left <= seconds, keep_alive
        await client.chat(model="parrot", messages=user("x"), keep_alive=0)

        async def unloaded() -> None:
            while host.supervisor.status("parrot").pid is not None:  # noqa: ASYNC110 - the status has no event
                await asyncio.sleep(0.02)

        await within(unloaded())
        loaded = await client.generate(model="parrot")
        assert (loaded.done_reason, host.supervisor.status("parrot").state) == ("load", "idle")
        assert (await client.generate(model="parrot", keep_alive=0)).done_reason == "unload"
        await within(unloaded())


async def test_an_idle_time_beyond_the_calendar_is_listed(tmp_path: Path) -> None:
    async with parrot(tmp_path, policy={"max_keep_alive": None}) as (_, client):
        await client.chat(model="parrot", messages=user("x"), keep_alive=1e15)
        (model,) = (await client.ps()).models
        assert model.expires_at is not None
        assert model.expires_at.year > datetime.datetime.now(datetime.UTC).year + 8


async def test_calls_of_open_webui_and_home_assistant(tmp_path: Path) -> None:
    """Both list the models first, then chat with fields and options that only Ollama knows."""
    async with parrot(tmp_path) as (host, _):
        for path in ("/api/version", "/api/tags", "/api/ps"):
            assert (await host.json("GET", path))[0] == 200
        body = {
            "model": "parrot:latest",
            "messages": [{"role": "system", "content": "You are a voice assistant."}, *user("turn on")],
            "options": {"num_ctx": 8192, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1},
            "think": False,
            "keep_alive": -1,
            "truncate": True,
            "metadata": {"chat_id": "x"},
        }
        async with host.ask("POST", "/api/chat", data=json.dumps(body)) as response:
            assert response.headers["Content-Type"] == "application/x-ndjson"
            assert response.headers["X-Handler"] == "parrot"
            lines = [json.loads(line) for line in (await response.text()).splitlines()]
        assert "".join(line["message"]["content"] for line in lines) == "turn on "
        assert lines[-1]["done"] is True
