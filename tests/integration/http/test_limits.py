"""The limits: each has its own answer, and the host serves on."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.http.serving import Host, parsed, running
from tests.support import LIMIT, install_puppet, until, within

LONG = b"x" * 20_000
ECHO = "/v1/handlers/puppet/echo"


def code_of(body: bytes) -> str:
    code: str = json.loads(body)["error"]["code"]
    return code


def post(body: bytes = b"", *headers: str) -> bytes:
    """Return a raw request to the echo."""
    head = "\r\n".join([f"POST {ECHO} HTTP/1.1", "Host: localhost", "Connection: close", *headers])
    return head.encode() + b"\r\n\r\n" + body


@pytest.fixture
def puppet(tmp_path: Path) -> Path:
    install_puppet(tmp_path)
    return tmp_path


async def serves_on(host: Host) -> bool:
    return (await host.json("POST", ECHO, data="{}"))[0] == 200


async def test_a_body_over_the_limit_is_413_with_a_length_and_without(puppet: Path) -> None:
    async with running(puppet, server={"max_body": 1000}) as host:
        status, _, body = await host.raw(post(b"x" * 10, "Content-Length: 100000"))
        assert (status, code_of(body)) == (413, "body_too_large")
        chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
        status, _, body = await host.raw(post(chunk * 3 + b"0\r\n\r\n", "Transfer-Encoding: chunked"))
        assert (status, code_of(body)) == (413, "body_too_large")
        assert b"server.max_body" in body
        small = json.dumps({"a": "x" * 1001})
        assert (await host.json("POST", ECHO, data=small))[0] == 413
        assert host.supervisor.status("puppet").state == "cold"
        assert await serves_on(host)


async def test_a_body_as_long_as_the_limit_is_taken(puppet: Path) -> None:
    """Also where it is longer than aiohttp's own limit, which has to follow the configuration."""
    text = json.dumps({"a": "x" * (2 * 1024**2)})
    async with running(puppet, server={"max_body": len(text)}) as host:
        status, response = await host.json("POST", ECHO, data=io.BytesIO(text.encode()))
        assert status == 200
        assert len(response["a"]) == 2 * 1024**2
        assert (await host.json("POST", ECHO, data=io.BytesIO(text.encode() + b" ")))[0] == 413


async def test_a_body_that_does_not_arrive_is_408(puppet: Path) -> None:
    async with running(puppet, server={"body_timeout": 0.2}) as host:
        status, _, body = await host.raw(post(b'{"a"', "Content-Length: 100"))
        assert (status, code_of(body)) == (408, "request_timeout")
        assert b"body_timeout" in body
        assert await serves_on(host)


async def test_a_head_that_does_not_arrive_ends_the_connection(puppet: Path) -> None:
    async with running(puppet, server={"keepalive_timeout": 0.3}) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: loc")
        assert await within(reader.read()) == b""
        writer.close()
        assert await serves_on(host)


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (
            b"GET / HTTP/1.1\r\nX-Big: " + LONG + b"\r\n\r\n",
            431,
            "headers_too_large",
        ),
        (b"GET /" + LONG + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"X-Many: x\r\n" * 500 + b"\r\n", 431, "headers_too_large"),
        (b"HELLO\r\n\r\n", 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nNo colon here\r\n\r\n", 400, "bad_request"),
        (post(b"zz\r\n", "Transfer-Encoding: chunked"), 400, "bad_request"),
        (post(b"abcde", "Content-Encoding: gzip", "Content-Length: 5"), 400, "bad_request"),
        (post(b"", "Content-Length: 5", "Transfer-Encoding: chunked"), 400, "bad_request"),
        (post(b"", "Content-Length: -5"), 400, "bad_request"),
    ],
)
async def test_what_is_no_request_is_said_in_the_envelope(
    puppet: Path, request_: bytes, status: int, code: str
) -> None:
    async with running(puppet) as host:
        got, headers, body = await host.raw(request_)
        assert (got, code_of(body)) == (status, code)
        assert headers["x-request-id"] == json.loads(body)["error"]["request_id"]
        assert await serves_on(host)


async def test_a_body_that_is_cut_off_harms_nobody(puppet: Path) -> None:
    async with running(puppet) as host:
        _, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(post(b'{"a"', "Content-Length: 100"))
        await writer.drain()
        writer.close()
        assert await serves_on(host)
        assert host.supervisor.in_flight == 0


async def test_an_unknown_expectation_is_refused_in_the_envelope(puppet: Path) -> None:
    async with running(puppet) as host:
        status, _, body = await host.raw(post(b"{}", "Expect: wonders", "Content-Length: 2"))
        assert (status, code_of(body)) == (417, "bad_request")


async def test_requests_over_the_limit_are_503_but_not_probes(puppet: Path) -> None:
    async with running(puppet, server={"max_connections": 2}) as host:
        host.control.make("started-1", "go-1", "started-2", "go-2")

        async def wait(number: int) -> tuple[int, Any]:
            steps = json.dumps({"steps": [f"tell:started-{number}", f"wait:go-{number}"]})
            return await host.json("POST", "/v1/handlers/puppet/script", data=steps)

        waiting = [asyncio.ensure_future(wait(number)) for number in (1, 2)]
        for number in (1, 2):
            await host.control.wait_for(f"started-{number}")
        async with host.ask("POST", ECHO, data="{}") as refused:
            assert refused.status == 503
            assert refused.headers["Retry-After"] == "1"
            assert (await refused.json())["error"]["code"] == "too_many_connections"
        assert (await host.json("GET", "/health/ready"))[0] == 200
        assert (await host.admin("GET", "/handlers"))[0] == 200
        for number in (1, 2):
            await host.control.signal(f"go-{number}")
        assert [status for status, _ in await within(asyncio.gather(*waiting))] == [200, 200]
        assert await serves_on(host)


async def test_connections_over_twice_the_limit_are_refused(puppet: Path) -> None:
    async with running(puppet, server={"max_connections": 1}) as host:
        await serves_on(host)  # and keeps its connection
        reader, idle = await asyncio.open_connection("127.0.0.1", host.port)
        idle.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in await within(reader.readline())
        refused, other = await asyncio.open_connection("127.0.0.1", host.port)
        status, headers, body = parsed(await within(refused.read()))
        assert (status, code_of(body)) == (503, "too_many_connections")
        assert headers["retry-after"] == "1"
        other.close()
        assert await serves_on(host)
        idle.close()

        async def let_in() -> bool:
            reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            response: bytes = await within(reader.read())
            writer.close()
            return response.startswith(b"HTTP/1.1 200")

        async with asyncio.timeout(LIMIT):
            while not await let_in():  # noqa: ASYNC110 - nothing tells when the host has seen the end
                await asyncio.sleep(0.01)


async def test_a_request_in_two_halves_is_answered(puppet: Path) -> None:
    async with running(puppet) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(post(b'{"a"', "Content-Length: 8"))
        await writer.drain()
        await until(lambda: True)
        writer.write(b": 1}")
        status, _, body = parsed(await within(reader.read()))
        assert (status, json.loads(body)["a"]) == (200, 1)
        writer.close()


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("//v1/chat/completions", "use /v1/chat/completions, without the extra slash"),
        ("/v1//models", "use /v1/models, without the extra slash"),
        ("/v1/handlers/", "use /v1/handlers, without the extra slash"),
        ("/v1/messages//", "use /v1/messages, without the extra slash"),
        ("/messages", "did you mean /v1/messages ("),
        ("/chat/completions", "did you mean /v1/chat/completions ("),
        ("/models/puppet:generateContent", "did you mean /v1/models/puppet:generateContent ("),
        ("/v1/v1/messages", "did you mean /v1/messages ("),
        ("/openai/v1/chat/completions", "did you mean /v1/chat/completions ("),
        ("/v1/api/chat", "did you mean /api/chat ("),
        ("/v1/chat%2Fcompletions", "nothing at /v1/chat%2Fcompletions; use /v1/chat/completions, without"),
        ("/v1/chat%252Fcompletions", "use /v1/chat/completions, without"),
        ("/v1/./x/../chat/completions", "use /v1/chat/completions, without"),
        ("/V1/Chat/Completions%20", "use /v1/chat/completions, without"),
        ("/v1/nothing", "GET /v1/handlers lists"),
        ("/", "GET /v1/handlers lists"),
    ],
)
async def test_a_path_of_a_wrong_base_url_names_the_right_one(puppet: Path, path: str, right: str) -> None:
    """Base URLs with a slash at their end are the most frequent mistake of clients."""
    async with running(puppet) as host:
        status, _, body = await host.raw(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert (status, code_of(body)) == (404, "not_found")
        assert right in json.loads(body)["error"]["message"]


async def test_a_slash_behind_a_path_of_another_method_is_named(puppet: Path) -> None:
    async with running(puppet) as host:
        path = "/v1beta/models/puppet:generateContent"
        status, _, body = await host.raw(f"POST {path}/ HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert (status, code_of(body)) == (405, "method_not_allowed")
        assert f"use {path}, without the extra slash" in json.loads(body)["error"]["message"]


async def test_a_slash_that_belongs_to_the_path_is_not_called_extra(puppet: Path) -> None:
    async with running(puppet) as host:
        status, _, body = await host.raw(b"POST /admin/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (status, code_of(body)) == (405, "method_not_allowed")
        assert "it takes GET" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'\xef\xbb\xbf{"a": 1}', 200, b'"a":1'),
        ('{"a": 1}'.encode("utf-16"), 400, b"send it as UTF-8"),
        ('{"a": 1}'.encode("utf-32"), 400, b"send it as UTF-8"),
    ],
)
async def test_a_byte_order_mark(puppet: Path, body: bytes, status: int, words: bytes) -> None:
    async with running(puppet) as host:
        response = await host.raw(post(body, f"Content-Length: {len(body)}"))
        assert response[0] == status
        assert words in response[2]


async def test_a_compressed_transfer_is_refused_by_its_name(puppet: Path) -> None:
    async with running(puppet) as host:
        status, _, body = await host.raw(post(b"1\r\n{\r\n0\r\n\r\n", "Transfer-Encoding: gzip, chunked"))
        assert (status, code_of(body)) == (415, "unsupported_media_type")
        assert b"'gzip, chunked'" in body
