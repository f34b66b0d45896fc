"""Generate load at little cost: ``python -m bench.load URL --connections 32 --requests 20000``.

It sends the same POST on each of its connections, one request at a time on each,
over HTTP/1.1 keep-alive, and reads whole responses (by length or chunked). It parses
no more of HTTP than that, so that a benchmark measures the server. All servers of a
table get the same generator. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from urllib.parse import urlsplit


class Connection(asyncio.Protocol):
    """One client: sends the next request when the last response is complete."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._missing_bytes = -1
        self._chunked = False
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._missing_bytes < 0:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data, self._buffer = self._buffer[:end].lower(), self._buffer[end + 4 :], b""
            if b" 200 " not in head[:20]:
                self._load.failed += 1
            self._chunked = b"\r\ntransfer-encoding: chunked" in head
            # From the start of a line: a proxy may repeat its provider's headers under longer names.
            length = head.find(b"\r\ncontent-length:")
            self._missing_bytes = int(head[length + 17 :].split(b"\r\n", 1)[0]) if length >= 0 else 0
        if self._chunked:
            self._buffer = (self._buffer + data)[-5:]
            complete = self._buffer == b"0\r\n\r\n"
        else:
            self._missing_bytes -= len(data)
            complete = self._missing_bytes <= 0
        if complete:
            self._missing_bytes, self._buffer = -1, b""
            self._load.durations.append(time.perf_counter() - self._sent_at)
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._load.done.done():
            self._load.failed += 1
            self._load.finish_connection()

    def _send(self) -> None:
        assert self._transport is not None
        if self._load.remaining <= 0:
            self._load.finish_connection()
            return
        self._load.remaining -= 1
        self._sent_at = time.perf_counter()
        self._transport.write(self._load.request)


class Load:
    """A bounded number of requests over a number of connections."""

    def __init__(self, request: bytes, connections: int, requests: int) -> None:
        self.request = request
        self.remaining = requests
        self.failed = 0
        self.durations: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connections = connections

    def finish_connection(self) -> None:
        """Count one connection that has no more requests to send."""
        self._connections -= 1
        if self._connections == 0 and not self.done.done():
            self.done.set_result(None)


async def run(url: str, body: bytes, headers: dict[str, str], connections: int, requests: int) -> dict[str, float]:
    """Send ``requests`` requests over ``connections`` connections; return counts, rate and durations in seconds."""
    target = urlsplit(url)
    assert target.hostname is not None
    assert target.port is not None
    address = (target.hostname, target.port)
    lines = [f"POST {target.path} HTTP/1.1", f"Host: {target.netloc}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    load = Load("\r\n".join(lines).encode() + body, connections, requests)
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    opened = [await loop.create_connection(lambda: Connection(load), *address) for _ in range(connections)]
    async with asyncio.timeout(300):
        await load.done
    elapsed = time.perf_counter() - started
    for transport, _ in opened:
        transport.close()
    durations = sorted(load.durations)
    return {
        "requests": len(durations),
        "failed": load.failed,
        "per_second": len(durations) / elapsed,
        "median": durations[len(durations) // 2],
        "p99": durations[int(len(durations) * 0.99)],
    }


def main() -> None:
    """Read the arguments, run, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--body", default="{}")
    parser.add_argument("--header", action="append", default=[], help="NAME=VALUE")
    options = parser.parse_args()
    headers = dict(header.split("=", 1) for header in options.header)
    result = asyncio.run(run(options.url, options.body.encode(), headers, options.connections, options.requests))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
