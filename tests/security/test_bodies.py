"""Hostile bodies: compressed bombs, deep nesting, many values, many bodies at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import ServerConfig
from handler_host.http.body import SCAN_BYTES
from handler_host.http.body_budget import BodyBudget
from tests.integration.http.serving import PARROT, running
from tests.support import install_plugin, install_puppet, within

KEY = "a-consumer-key"
ECHO = "/v1/handlers/puppet/echo"
JSON = {"Content-Type": "application/json"}
CHATS: dict[str, tuple[str, dict[str, Any]]] = {
    "/v1/chat/completions": ("metadata", {"model": "parrot", "messages": [{"role": "user", "content": "hi"}]}),
    "/v1/messages": (
        "metadata",
        {"model": "parrot", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]},
    ),
    "/v1/responses": ("metadata", {"model": "parrot", "input": "hi"}),
    "/v1beta/models/parrot:generateContent": ("labels", {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}),
    "/v1/handlers/puppet/echo": ("a", {}),
    "/v1/handlers/unknown/echo": ("a", {}),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    install_puppet(tmp_path)
    install_plugin(tmp_path, "parrot", PARROT, attribute="Handler")
    return tmp_path


@contextlib.asynccontextmanager
async def loop_lag() -> AsyncIterator[list[float]]:
    """Measure the longest time, in seconds, in which the event loop ran nothing else."""
    worst = [0.0]

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            worst[0] = max(worst[0], time.perf_counter() - before)

    task = asyncio.create_task(watch())
    try:
        yield worst
    finally:
        task.cancel()


def bomb(size_mb: int) -> bytes:
    """Return gzip data that expands to so many megabytes of spaces."""
    encoder = zlib.compressobj(9, zlib.DEFLATED, 31)
    spaces = b" " * 1_000_000
    return b"".join(encoder.compress(spaces) for _ in range(size_mb)) + encoder.flush()


def raw(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_only_admitted_requests_are_decompressed(root: Path) -> None:
    """Twenty bombs of 100 MB without a key are refused for the price of their compressed bytes."""
    body = bomb(100)
    async with running(root, keys=(KEY,)) as host:
        before = time.process_time()
        responses = await asyncio.gather(*(host.raw(raw(ECHO, body, "Content-Encoding: gzip")) for _ in range(20)))
        assert {status for status, _, _ in responses} == {401}
        assert time.process_time() - before < 1.5  # 10 s if aiohttp decompresses them


async def test_a_body_that_is_refused_by_its_head_is_not_asked_for(root: Path) -> None:
    """A client that waits for ``100 Continue`` sends its body only if the key and the size are right."""
    expect, key = "Expect: 100-continue", f"Authorization: Bearer {KEY}"
    async with running(root, keys=(KEY,), server={"max_body": 1_000}) as host:
        for body, headers, status in ((b"{}", (expect,), b" 401 "), (b" " * 2_000, (expect, key), b" 413 ")):
            reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
            writer.write(raw(ECHO, body, *headers).removesuffix(body))
            assert status in await within(reader.readline())
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(raw(ECHO, b'{"a": 1}', expect, key).removesuffix(b'{"a": 1}'))
        assert await within(reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b'{"a": 1}')
        assert b" 200 " in await within(reader.readline())
        writer.close()


async def test_a_bomb_is_refused_at_the_limit_of_a_body(root: Path) -> None:
    """With a key, too, and by its ratio where the limit is high."""
    async with running(root, server={"max_body": 10_000_000}) as host:
        status, _, body = await host.raw(raw(ECHO, bomb(20), "Content-Encoding: gzip"))
        assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
        status, _, body = await host.raw(raw(ECHO, bomb(5), "Content-Encoding: gzip"))
        assert status == 413
        assert b"200 times its size" in body


ENCODED: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("GZIP", gzip.compress),
    ("gzip", lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:])),
    ("deflate", zlib.compress),
    ("deflate", lambda data: zlib.compress(data)[2:-4]),
    ("identity", lambda data: data),
]
BROKEN: list[tuple[str, bytes, int, str]] = [
    ("gzip", b"no gzip at all", 400, "not gzip"),
    ("deflate", b"no deflate at all", 400, "not deflate"),
    ("gzip", gzip.compress(b'{"a": 1}')[:-3], 400, "ends within its gzip data"),
    ("gzip", gzip.compress(b"{}") + b"more", 400, "not gzip"),
    ("deflate", zlib.compress(b"{}") + b"more", 400, "data after its end"),
    ("gzip", gzip.compress(b"") * 1000, 400, "data after its end"),
    ("br", b"\x0b\x00\x80{}\x03", 415, "send gzip, deflate or no encoding"),
    ("zstd", b"{}", 415, "send gzip, deflate or no encoding"),
    ("gzip, gzip", b"{}", 415, "send gzip, deflate or no encoding"),
    ("gzip\r\nContent-Encoding: gzip", b"{}", 415, "send gzip, deflate or no encoding"),
]


async def test_a_compressed_body_is_read(root: Path) -> None:
    """In the encodings that clients send, with their variants."""
    content = json.dumps({"a": "x" * 1000}).encode()
    async with running(root) as host:
        for encoding, encode in ENCODED:
            status, _, body = await host.raw(raw(ECHO, encode(content), f"Content-Encoding: {encoding}"))
            assert (status, json.loads(body)["a"]) == (200, "x" * 1000), encoding


async def test_a_body_that_is_not_what_its_encoding_says_is_refused(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a message, and without a traceback."""
    async with running(root) as host:
        for encoding, content, expected_status, text in BROKEN:
            status, _, body = await host.raw(raw(ECHO, content, f"Content-Encoding: {encoding}"))
            assert status == expected_status, content
            assert text in json.loads(body)["error"]["message"]
    assert not [record for record in caplog.records if record.exc_info]


async def test_deep_nesting_is_refused_on_every_route(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A body of more than 128 levels is a 400 wherever it nests, and costs no traceback."""
    async with running(root) as host:
        for path, (field, content) in CHATS.items():
            for levels in (129, 300, 990, 100_000):
                for opening, closing in (("[", "]"), ('{"a_b":', "}")):
                    nested = opening * levels + "1" + closing * levels
                    body = json.dumps({**content, field: "NESTED"}).replace('"NESTED"', nested)
                    async with host.ask("POST", path, data=body, headers=JSON) as response:
                        assert response.status == 400
                        assert "nested too deeply" in await response.text()
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_body_of_a_hundred_levels_passes(root: Path) -> None:
    """Legal documents are below the limit."""
    nested: Any = 1
    for _ in range(100):
        nested = {"items": nested}
    async with running(root) as host:
        status, response = await host.json("POST", ECHO, data=json.dumps({"a": nested}))
        assert (status, response["a"]) == (200, nested)


async def test_a_body_of_many_values_is_translated_beside_the_loop(root: Path) -> None:
    """While 3 MB of small items are translated, the loop serves others."""
    items = [{"role": role, "content": "x"} for _ in range(15_000) for role in ("user", "assistant")]
    body = json.dumps({"model": "parrot", "input": items}).encode()
    async with running(root) as host:
        await host.json("POST", "/v1/responses", json={"model": "parrot", "input": "hi"})
        async with loop_lag() as worst, host.ask("POST", "/v1/responses", data=io.BytesIO(body)) as response:
            assert response.status == 200
        assert worst[0] < 0.5  # 0.05 s on a quiet machine; 1 s if the loop translates it


async def test_a_body_of_too_many_values_is_refused(root: Path) -> None:
    """The host decodes only so many; the limit does not hold for native routes, which the worker decodes."""
    async with running(root) as host:
        body = json.dumps({"model": "parrot", "input": [{}] * 150_000})
        async with host.ask("POST", "/v1/responses", data=body) as response:
            assert response.status == 413
            assert "more than 200000 values" in await response.text()
        status, _ = await host.json("POST", ECHO, data=json.dumps({"a": [1] * 250_000}))
        assert status == 200


async def test_all_bodies_together_have_a_limit(root: Path) -> None:
    """The next body is a 503 with Retry-After, and passes when the others have ended."""
    body = json.dumps({"a": "x" * 600_000}).encode()
    async with running(root, server={"max_bodies": 1_000_000, "max_body": 1_000_000, "body_timeout": 30}) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(raw(ECHO, body)[:-10])
        await asyncio.sleep(0.3)
        async with host.ask("POST", ECHO, data=body) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert (await response.json())["error"]["code"] == "memory_budget"
        status, _, _ = await host.raw(raw(ECHO, gzip.compress(body), "Content-Encoding: gzip"))
        assert status == 503, "a compressed body counts with its content"
        writer.write(body[-10:])
        assert b" 200 " in await within(reader.readline())
        await within(reader.readuntil(b"\r\n\r\n"))
        await within(reader.readexactly(600_000))
        writer.close()
        assert (await host.json("POST", ECHO, data=body))[0] == 200


def test_waiting_bodies_fit_into_half_of_the_limit() -> None:
    """Each takes up to seven times its size: a burst of one consumer in a small container does not end the host."""
    limit_bytes = 512 * 1024 * 1024
    budget = BodyBudget(ServerConfig(), lambda: limit_bytes)
    assert budget.limit is not None
    assert 7 * budget.limit < limit_bytes / 2


async def test_half_of_a_surrogate_pair_is_replaced(root: Path) -> None:
    """Clients that cut a text within an emoji send it; whole pairs and escaped backslashes stay."""
    text = r'{"a": "cut \ud83d, \uDE00 whole \ud83d\ude00 text \\ud83d \\\ud83d"}'
    async with running(root) as host:
        status, response = await host.json("POST", ECHO, data=text)
        assert (status, response["a"]) == (200, "cut \ufffd, \ufffd whole \U0001f600 text \\ud83d \\\ufffd")
        chat = r'{"model": "parrot", "messages": [{"role": "user", "content": "\ud83d"}]}'
        status, response = await host.json("POST", "/v1/chat/completions", data=chat)
        assert (status, response["choices"][0]["message"]["content"]) == (200, "\ufffd ")


async def test_a_surrogate_across_two_parts_of_a_long_body_is_found(root: Path) -> None:
    """The search runs in parts of a megabyte."""
    async with running(root) as host:
        for places in range(5):
            start = '{"a": "'
            text = start + "x" * (SCAN_BYTES - len(start) - places) + r"\ud83d" + '"}'
            status, response = await host.json("POST", ECHO, data=io.BytesIO(text.encode()))
            assert (status, response["a"].strip("x")) == (200, "\ufffd")


async def test_a_long_name_in_a_request_makes_no_long_error(root: Path) -> None:
    """Unknown fields, models and types are quoted, shortened; so are the names of fields that were left out."""
    long = "m" * 500_000
    async with running(root) as host:
        for path, body in (
            ("/v1/chat/completions", {**CHATS["/v1/chat/completions"][1], long: 1}),
            ("/v1/chat/completions", {**CHATS["/v1/chat/completions"][1], "model": long}),
            ("/v1/responses", {"model": "parrot", "input": [{"type": long}]}),
        ):
            async with host.ask("POST", path, data=json.dumps(body)) as response:
                assert response.status in (200, 400, 404)
                assert sum(len(value) for value in response.headers.values()) < 8_000
                assert len(await response.read()) < 10_000


async def test_a_path_of_many_colons_costs_little(root: Path) -> None:
    """The routes of models are matched in linear time, before any key is checked."""
    path = "/v1beta/models/" + "a:" * 7_000 + "/"
    async with running(root, keys=(KEY,)) as host:
        before = time.process_time()
        status, _, _ = await host.raw(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert status == 405
        assert time.process_time() - before < 0.5  # 7 s with a quadratic pattern
