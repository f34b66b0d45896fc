"""Hostile connections: unfinished headers, many of them, and clients that read nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from handler_host.http import listener
from handler_host.memory import trim
from tests.integration.http.serving import Host, running
from tests.support import install_puppet, until, within

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


async def test_the_rest_of_a_refused_head_is_not_read(root: Path) -> None:
    """The client gets the response, and a reset instead of time of the host."""
    async with running(root) as host:
        reader, writer = await connect(host, HEAD + b"".join(HEADERS))
        assert (await error_of(reader))[0] == 431
        writer.write(b"".join(HEADERS) * 200)  # 40 MB, more than the kernel buffers
        with pytest.raises(ConnectionError):
            await within(writer.drain())
        writer.close()


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


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"1\r\n \r\n" * 100_000, (400, "bad_request")),
        (b"2\r\n{}\r\n0\r\n" + b"".join(HEADERS[:12]), (431, "headers_too_large")),
        (b"2\r\n{}\r\n0\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", (431, "headers_too_large")),
        (b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 200 + b"\r\n", (431, "headers_too_large")),
        (b"2;a=" + b"b" * 200_000, (431, "headers_too_large")),
        (b"2\r\n{}\r\nxyz\r\n", (400, "bad_request")),
    ],
    ids=["tiny chunks", "endless trailers", "long trailer", "many trailers", "long extension", "broken size"],
)
async def test_a_body_with_hostile_chunks_is_refused_at_once(root: Path, body: bytes, refusal: tuple[int, str]) -> None:
    """Also if it comes after its head: it is neither parsed to its end nor waited for."""
    async with running(root) as host:
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.05)
        writer.write(body)
        assert (await error_of(reader))[:2] == refusal
        writer.close()
        assert (await host.json("GET", "/health/live"))[0] == 200


async def test_a_hostile_body_without_a_key_leaves_no_traceback(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its response is 401 before the body is refused, and the connection ends."""
    async with running(root, keys=("a-consumer-key",)) as host:
        reader, writer = await connect(host, HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        head = await within(reader.readuntil(b"\r\n\r\n"))
        assert b" 401 " in head.partition(b"\r\n")[0]
        assert b"connection: close" in head.lower()
        writer.write(b"1\r\n \r\n" * 100_000)
        await within(reader.read())
        writer.close()
    assert "Traceback" not in caplog.text
    assert "Unhandled" not in caplog.text


async def test_a_client_without_a_key_can_send_the_rest_of_its_body(root: Path) -> None:
    """Its body filled the buffer before the response: a client that reads only after it has sent all still gets 401."""
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    async with running(root, keys=("a-consumer-key",)) as host:
        reader, writer = await connect(host, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        assert b" 401 " in await within(reader.readuntil(b"\r\n"))
        started_at = asyncio.get_running_loop().time()
        for _ in range(500):  # more than the kernel buffers
            writer.write(chunk)
            await within(writer.drain())
        assert asyncio.get_running_loop().time() - started_at < listener.LINGERING_TIME_S
        await within(reader.read())
        writer.close()


async def test_a_body_of_small_chunks_passes(root: Path) -> None:
    """Chunks of some bytes each, as a client that streams its request sends them, and more than aiohttp buffers."""
    content = json.dumps({"a": "x" * 60_000}).encode()
    pieces = [content[start : start + 6] for start in range(0, len(content), 6)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    async with running(root) as host:
        status, _, response = await host.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n")
        assert (status, json.loads(response)["a"]) == (200, "x" * 60_000)


async def test_a_large_body_behind_another_request_passes(root: Path) -> None:
    """Both arrive in one piece, of which the buffer is a part."""
    body = json.dumps({"a": "x" * 60_000}).encode()
    requests = [HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content for content in (b"{}", body)]
    async with running(root, server={"body_timeout": 2}) as host:
        reader, writer = await connect(host, b"".join(requests))
        contents = []
        for _ in requests:
            head = await within(reader.readuntil(b"\r\n\r\n"))
            assert b" 200 " in head.partition(b"\r\n")[0]
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            contents.append(json.loads(await within(reader.readexactly(length))))
        assert contents[1]["a"] == "x" * 60_000
        writer.close()


async def test_unfinished_requests_together_have_a_limit(root: Path) -> None:
    """A burst of them is refused beyond 8 MB, and other clients are served meanwhile."""
    async with running(root) as host:
        connections = [await asyncio.open_connection("127.0.0.1", host.port) for _ in range(200)]
        for _, writer in connections:
            writer.write(HEAD + b"".join(HEADERS[:5]))  # 50 KB

        def find_refused() -> list[asyncio.StreamReader]:
            return [reader for reader, _ in connections if reader.at_eof() or reader._buffer]  # type: ignore[attr-defined]

        await until(lambda: len(find_refused()) > 30)
        await asyncio.sleep(0.2)
        assert (await host.json("POST", ECHO, data="{}"))[0] == 200
        refused = find_refused()
        assert 30 < len(refused) < 60
        assert (await error_of(refused[0]))[:2] == (503, "too_many_connections")
        for _, writer in connections:
            writer.close()
        await _until_no_bytes_are_unfinished(host)


async def test_a_burst_of_headers_leaves_no_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heap is trimmed when the refused connections have gone; requests that end need no trim."""
    calls: list[float] = []
    real_trim = trim.trim_heap

    def trim_heap() -> None:
        calls.append(asyncio.get_running_loop().time())
        real_trim()

    monkeypatch.setattr(trim, "trim_heap", trim_heap)
    async with running(root) as host:
        assert (await host.json("GET", "/health/live"))[0] == 200
        await asyncio.sleep(2 * trim.REST_S)
        assert not calls
        connections = [await connect(host, HEAD + b"".join(HEADERS)) for _ in range(5)]
        for reader, writer in connections:
            assert (await error_of(reader))[0] == 431
            writer.close()
        await until(lambda: bool(calls))
        await asyncio.sleep(2 * trim.REST_S)
        assert len(calls) < len(connections)


async def _until_no_bytes_are_unfinished(host: Host) -> None:
    for _ in range(100):
        if (await host.json("POST", ECHO, data="{}"))[0] == 200:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the host does not recover")


async def connect(host: Host, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def test_idle_connections_do_not_take_the_place_of_requests(root: Path) -> None:
    """At the limit the connection that has been idle for the longest time is closed, and none that is in use."""
    async with running(root, server={"max_connections": 3}) as host:
        body = json.dumps({"steps": ["forever"]}).encode()
        head = HEAD.replace(b"/echo", b"/script")
        busy_reader, busy = await connect(host, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await asyncio.sleep(0.1)
        idle = [await connect(host) for _ in range(20)]
        await asyncio.sleep(listener.EVICTABLE_AFTER_S + 0.1)
        assert (await host.json("GET", "/health/live"))[0] == 200
        assert (await host.json("GET", "/health/ready"))[0] == 200
        assert await within(idle[0][0].read()) == b""
        assert not busy_reader.at_eof()
        busy.close()
        for _, writer in idle:
            writer.close()


async def test_connections_of_one_address_have_a_limit_if_configured(root: Path) -> None:
    """The limit counts open connections, and is off by default."""
    async with running(root, server={"max_connections_per_address": 3}) as host:
        open_connections = [await connect(host) for _ in range(3)]
        await asyncio.sleep(0.05)
        reader, writer = await connect(host)
        status, code, message = await error_of(reader)
        assert (status, code) == (503, "too_many_connections")
        assert "server.max_connections_per_address" in message
        writer.close()
        for _, writer in open_connections:
            writer.close()
        await asyncio.sleep(0.1)
        assert (await host.json("GET", "/health/live"))[0] == 200


async def test_a_response_that_is_not_read_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel ends the connection; the host keeps neither the response nor the connection."""
    monkeypatch.setattr(listener, "CLIENT_STALL_S", 1.0)
    body = json.dumps({"a": "x" * 12_000_000}).encode()
    async with running(root) as host:
        with socket.create_connection(("127.0.0.1", host.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await asyncio.to_thread(client.sendall, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert established_to(host.port) > 0
            async with asyncio.timeout(20):
                while established_to(host.port) > 0:  # noqa: ASYNC110 - the kernel reports nothing
                    await asyncio.sleep(0.1)
        assert (await host.json("GET", "/health/live"))[0] == 200


def established_to(port: int) -> int:
    """Return the number of connections that the host's side has open."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "01" for line in lines)


async def test_a_client_that_closes_its_side_gets_its_response(root: Path) -> None:
    """Whole or streamed; the connection ends with the response."""
    async with running(root) as host:
        await host.json("POST", ECHO, data="{}")
        reader, writer = await connect(host, HEAD + b'Content-Length: 7\r\n\r\n{"a":1}')
        writer.write_eof()
        response = await within(reader.read())
        assert response.startswith(b"HTTP/1.1 200 ")
        assert b'"a":1' in response
        writer.close()
        stream = HEAD.replace(b"/echo", b"/stream") + b"Accept: text/event-stream\r\nContent-Length: 20\r\n\r\n"
        reader, writer = await connect(host, stream + b'{"steps":["","",""]}')
        writer.write_eof()
        response = await within(reader.read())
        assert b"event: end" in response
        writer.close()


async def test_a_stream_over_http_1_0_ends_with_its_connection(root: Path) -> None:
    """Also if the client asks to keep it open: nothing else ends the body."""
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"/echo", b"/stream")
    async with running(root) as host:
        reader, writer = await connect(
            host,
            head
            + b'Connection: keep-alive\r\nAccept: text/event-stream\r\nContent-Length: 20\r\n\r\n{"steps":["","",""]}',
        )
        response = await within(reader.read())
        assert b"event: end" in response
        writer.close()
