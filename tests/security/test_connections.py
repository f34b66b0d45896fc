"""Hostile connections: unfinished headers, many of them, and clients that read nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.integration.http.serving import Host, running
from tests.support import install_puppet, within

ECHO = "/v1/handlers/puppet/echo"
HEAD = b"POST /v1/handlers/puppet/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEADERS = [b"X%d: %s\r\n" % (number, b"a" * 10_000) for number in range(20)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    install_puppet(tmp_path)
    return tmp_path


async def error_of(reader: asyncio.StreamReader) -> tuple[int, str, str]:
    """Return status, code and message of a response that closes its connection."""
    head, _, body = (await within(reader.read())).partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    return int(head.split()[1]), error["code"], error["message"]


async def test_all_headers_of_a_request_together_have_a_limit(root: Path) -> None:
    """Whether they arrive in one piece or header by header, finished or not."""
    async with running(root) as host:
        for pieces in (
            [HEAD + b"".join(HEADERS) + b"\r\n"],
            [HEAD, *HEADERS],
            [HEAD, *HEADERS[:5], *HEADERS[5:], b"\r\n"],
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.001)
            assert (await error_of(reader))[:2] == (431, "headers_too_large")
            writer.close()
        assert (await host.json("POST", ECHO, data="{}"))[0] == 200


async def test_large_headers_and_a_large_body_within_the_limits_pass(root: Path) -> None:
    """Also on one connection, one request after the other, and cut anywhere."""
    body = json.dumps({"a": "x" * 300_000}).encode()
    request = HEAD + b"".join(HEADERS[:6]) + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with running(root) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        for size in (len(request), 50_000, 7_001):
            for start in range(0, len(request), size):
                writer.write(request[start : start + size])
                await writer.drain()
            await asyncio.sleep(0)
            head = await within(reader.readuntil(b"\r\n\r\n"))
            assert b" 200 " in head.partition(b"\r\n")[0]
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert len((json.loads(await within(reader.readexactly(length))))["a"]) == 300_000
        writer.close()


async def test_headers_that_arrive_too_slowly_are_408(root: Path) -> None:
    """A connection with an unfinished head ends after the time for a body."""
    async with running(root, server={"body_timeout": 0.3}) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(HEAD)
        assert (await error_of(reader))[:2] == (408, "request_timeout")
        writer.close()


async def test_unfinished_requests_together_have_a_limit(root: Path) -> None:
    """A burst of them is refused beyond 8 MB, and other clients are served meanwhile."""
    async with running(root) as host:
        connections = [await asyncio.open_connection("127.0.0.1", host.port) for _ in range(200)]
        for _, writer in connections:
            writer.write(HEAD + b"".join(HEADERS[:5]))  # 50 KB
        await asyncio.sleep(0.2)
        assert (await host.json("POST", ECHO, data="{}"))[0] == 200
        refused = [reader for reader, _ in connections if reader.at_eof() or reader._buffer]  # type: ignore[attr-defined]
        assert 30 < len(refused) < 60
        assert (await error_of(refused[0]))[:2] == (503, "too_many_connections")
        for _, writer in connections:
            writer.close()
        await _until_no_bytes_are_unfinished(host)


async def _until_no_bytes_are_unfinished(host: Host) -> None:
    for _ in range(100):
        if (await host.json("POST", ECHO, data="{}"))[0] == 200:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the host does not recover")
