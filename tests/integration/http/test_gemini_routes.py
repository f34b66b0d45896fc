"""Gemini's routes, asked by raw HTTP; the clients' tests ask them by Google's SDKs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from handler_host.http import sse
from tests.integration.http.serving import PARROT, Host, events, running
from tests.support import install_plugin, within

BASE = "/v1beta/models/parrot"


@asynccontextmanager
async def parrot(root: Path, **options: Any) -> AsyncIterator[Host]:
    install_plugin(root, "parrot", PARROT)
    async with running(root, **options) as host:
        yield host


def said(text: str, **fields: Any) -> str:
    return json.dumps({"contents": [{"parts": [{"text": text}]}], **fields})


def texts(chunks: list[Any]) -> list[str]:
    return [part["text"] for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]]


async def test_an_answer_comes_at_once_as_events_and_as_one_array(tmp_path: Path) -> None:
    async with parrot(tmp_path) as host:
        status, whole = await host.json("POST", f"{BASE}:generateContent", data=said("hello there"))
        assert (status, texts([whole])) == (200, ["hello there "])
        usage = {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5}
        assert (whole["usageMetadata"], whole["modelVersion"]) == (usage, "parrot")
        async with host.ask("POST", f"{BASE}:streamGenerateContent?alt=sse", data=said("hello there")) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            assert response.headers["X-Handler"] == "parrot"
            streamed = [data for _, data in events(await response.text())]
        async with host.ask("POST", f"{BASE}:streamGenerateContent", data=said("hello there")) as response:
            assert response.headers["Content-Type"].startswith("application/json")
            array = json.loads(await response.text())
        for chunks in (streamed, array):
            assert texts(chunks) == ["hello ", "there "]
            assert chunks[-1]["usageMetadata"] == usage
            assert [chunk["candidates"][0].get("finishReason") for chunk in chunks] == [None, None, "STOP"]


@pytest.mark.parametrize("base", ["v1beta/models", "v1/models", "v1beta"])
async def test_what_stands_after_the_slash_is_the_handlers_matter(tmp_path: Path, base: str) -> None:
    """Vercel's `ai` leaves `models/` out before a name with a slash."""
    async with parrot(tmp_path) as host:
        for model in ("parrot/big/one:8b", "parrot%2Fbig%2Fone:8b", "parrot/big/one%3A8b"):
            path = f"/{base}/{model}:generateContent"
            status, whole = await host.json("POST", path, data=said("MODEL"))
            assert (status, texts([whole]), whole["modelVersion"]) == (200, ["big/one:8b"], "parrot/big/one:8b")


async def test_an_error_in_an_array_is_an_element(tmp_path: Path) -> None:
    async with parrot(tmp_path) as host:
        async with host.ask("POST", f"{BASE}:streamGenerateContent", data=said("one BOOM")) as response:
            text = await response.text()
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
        first, error = json.loads(text + "]")
        assert texts([first]) == ["one "]
        assert (error["error"]["status"], "secret" in text) == ("INTERNAL", False)
        async with host.ask("POST", f"{BASE}:streamGenerateContent?alt=sse", data=said("one BOOM")) as response:
            parts = [data async for data, ends in response.content.iter_chunks() if ends]
        *_, bare, event = parts
        (error,) = [data for _, data in events(event.decode())]
        assert error["error"]["details"][0]["reason"] == "HANDLER_ERROR"
        assert json.loads(bare) == error  # the form of Google, which some of its SDKs find only in a chunk of its own


async def test_a_silence_is_broken_by_white_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a handler is silent, white space keeps the connection alive, but only after the start of the array."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_INTERVAL_S", 0.02)
    monkeypatch.setattr(sse, "MIN_CHECK_INTERVAL_S", 0.01)
    source = """
import asyncio
from handler_host.chat import ChatHandler, Usage, UsageChunk

class Handler(ChatHandler):
    async def stream(self, request):
        yield UsageChunk(usage=Usage(prompt_tokens=1))  # nothing that Gemini's clients are shown yet
        await asyncio.Event().wait()
"""
    install_plugin(tmp_path, "mute", source)
    path = "/v1beta/models/mute:streamGenerateContent"
    async with running(tmp_path) as host:
        async with host.ask("POST", path, data=said("Hi")) as response:
            assert await within(response.content.readexactly(4)) == b"[\n\n\n"
        async with host.ask("POST", f"{path}?alt=sse", data=said("Hi")) as response:
            # Google's SDKs fail at a comment of server-sent events.
            assert await within(response.content.readexactly(3)) == b"\n\n\n"


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("POST", f"{BASE}:embedContent", 404, "NOT_FOUND"),
        ("POST", f"{BASE}:countTokens", 404, "NOT_FOUND"),
        ("POST", "/v1beta/models/nobody:generateContent", 404, "NOT_FOUND"),
        ("POST", "/v1beta/models/nobody:streamGenerateContent?alt=sse", 404, "NOT_FOUND"),
        ("GET", "/v1beta/models/nobody", 404, "NOT_FOUND"),
        ("POST", "/v1beta/models/parrot/:generateContent", 400, "INVALID_ARGUMENT"),
        ("POST", "/v1beta/models//x:generateContent", 400, "INVALID_ARGUMENT"),
    ],
)
async def test_refusals_come_in_googles_envelope(
    tmp_path: Path, method: str, path: str, status: int, word: str
) -> None:
    async with parrot(tmp_path) as host:
        body = said("Hi", content={"parts": [{"text": "Hi"}]})  # of all three methods
        got, response = await host.json(method, path, data=body if method == "POST" else None)
        assert (got, response["error"]["code"], response["error"]["status"]) == (status, status, word)


async def test_a_limit_comes_with_the_time_to_wait(tmp_path: Path) -> None:
    async with parrot(tmp_path) as host:
        for method in (":generateContent", ":streamGenerateContent", ":streamGenerateContent?alt=sse"):
            async with host.ask("POST", BASE + method, data=said("LIMIT")) as response:
                assert (response.status, response.headers["Retry-After"]) == (429, "7")
                shown = json.loads(await response.read())["error"]
            assert shown["status"] == "RESOURCE_EXHAUSTED"
            assert shown["details"][-1]["retryDelay"] == "7.000s"


async def test_a_body_that_is_cut_off_or_none_is_told(tmp_path: Path) -> None:
    async with parrot(tmp_path) as host:
        for body in ('{"contents": [{"pa', "<html>", ""):
            status, response = await host.json("POST", f"{BASE}:generateContent", data=body)
            assert (status, response["error"]["status"]) == (400, "INVALID_ARGUMENT")
        assert host.supervisor.status("parrot").state == "cold"


@pytest.mark.parametrize("where", ["x-goog-api-key", "query", "Authorization"])
async def test_the_key_is_taken_from_where_googles_clients_put_it(tmp_path: Path, where: str) -> None:
    async with parrot(tmp_path, keys=("key-1",)) as host:
        for key, status in (("key-1", 200), ("key-2", 401)):
            path = f"/v1beta/models?key={key}" if where == "query" else "/v1beta/models"
            value = f"Bearer {key}" if where == "Authorization" else key
            got, response = await host.json("GET", path, headers={} if where == "query" else {where: value})
            assert got == status
            assert status == 200 or response["error"]["status"] == "UNAUTHENTICATED"
        got, _ = await host.json("GET", "/v1/handlers?key=key-1")
        assert got == 401, "only Gemini's routes take a key in the query"


async def test_many_streams_at_a_time_are_not_mixed_up(tmp_path: Path) -> None:
    async with parrot(tmp_path) as host:

        async def ask(number: int) -> list[str]:
            path = f"{BASE}:streamGenerateContent" + ("?alt=sse" if number % 2 else "")
            async with host.ask("POST", path, data=said(f"n{number} x{number}")) as response:
                text = await response.text()
            return texts([data for _, data in events(text)] if number % 2 else json.loads(text))

        responses = await within(asyncio.gather(*map(ask, range(16))))
        assert responses == [[f"n{number} ", f"x{number} "] for number in range(16)]


def test_geminis_types_are_imported_with_its_first_request() -> None:
    package = "handler_host.protocols.gemini."
    script = f"import sys, handler_host.app; print(*(name for name in sys.modules if name.startswith({package!r})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
