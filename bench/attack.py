"""Health checks while one client attacks the host: ``python -m bench.attack``.

Each attack runs in a process of its own, on as many connections as it likes, for some seconds. Meanwhile
another client opens a connection for each health check, as a load balancer does. On a busy machine most of the
time of a check belongs to other programs, so the target is for the processor time that the host, with all of its
threads, uses during a check: at most this is the time of the check on a quiet machine. The longest turn of the event
loop does not depend on the client; a check takes four turns (``bench/loop_turns.py``).
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import math
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bench import loop_turns, servers, tables
from bench.loop_turns import SECONDS
from bench.memory import megabytes

KEY = "benchmark-consumer-key"
PAUSE_S = 0.02
"""Pause between two health checks."""
RESPONSE_S = 5.0
"""Time that an attacker waits for a response."""
REST_S = 1.0
"""Time between an attack and the measurement of what it leaves."""
TARGET_MS = 100.0
PLUGIN = """\
import logging, time
from handler_host.chat import ChatHandler
from handler_host.plugin import operation

class Handler(ChatHandler):
    async def stream(self, request):
        for number in range(200):
            yield "x" * 20_000

    @operation
    async def log(self) -> None:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            logging.warning("flood")

    @operation
    async def write(self) -> None:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            print("flood")
"""


class Attack(NamedTuple):
    """Requests that each of ``connections`` sends again and again."""

    requests: tuple[bytes, ...]
    connections: int = 1
    is_read: bool = True
    """Whether the client reads a response; otherwise it holds the connection open."""


def post(path: str, body: object, *headers: str, length: int | None = None) -> bytes:
    """Return a request; ``body`` is bytes or becomes JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    size = len(data) if length is None else length
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {size}")
    return "\r\n".join((*lines, *headers)).encode() + b"\r\n\r\n" + data


def chat(**fields: object) -> dict[str, object]:
    """Return a chat request."""
    return {"model": "victim", "messages": [{"role": "user", "content": "x"}], **fields}


def attacks() -> dict[str, Attack]:
    """Return the attacks by name."""
    key = f"Authorization: Bearer {KEY}"
    chats, answers, gemini = "/v1/chat/completions", "/v1/responses", "/v1beta/models/victim:generateContent"
    bomb = gzip.compress(b" " * 300_000_000)
    tools = [{"type": "function", "function": {"name": f"f{n}", "parameters": {}}} for n in range(10_000)]
    turns = [{"role": ("user", "assistant")[n % 2], "content": "x"} for n in range(30_001)]
    calls = [{"functionCall": {"name": f"f{n}"}} for n in range(15_000)]
    results = [{"functionResponse": {"name": f"f{n}"}} for n in reversed(range(15_000))]
    contents = [{"role": "user", "parts": [{"text": "x"}]}, {"role": "model", "parts": calls}]
    items = [
        {"type": kind, "call_id": f"c{n}", **rest}
        for n in range(8_000)
        for kind, rest in (("function_call", {"name": "f", "arguments": ""}), ("function_call_output", {"output": ""}))
    ]
    schema: dict[str, Any] = {"properties": {"a" * 100_000: {"properties": {f"{n:x}": {} for n in range(10_000)}}}}
    deep = b'{"model":"victim","metadata":' + b'{"a":' * 100_000
    half_pair = b'{"model":"victim","user":"\\ud800' + rb"\na" * 300_000 + b'"}'
    chunked = f"POST {chats} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n".encode()
    tiny = b"1\r\n \r\n" * 1_000_000
    live = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
    preflight = (
        b"OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nAccess-Control-Request-Method: GET\r\n\r\n"
    )
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade = live + upgrade + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    return {
        "none": Attack(()),
        "gzip bombs of 300 MB, no key": Attack((post(chats, bomb, "Content-Encoding: gzip"),), 10),
        "gzip bombs of 300 MB": Attack((post(chats, bomb, "Content-Encoding: gzip", key),), 10),
        "unfinished headers": Attack((live + b"".join(b"X%d: %s\r\n" % (n, b"a" * 16_000) for n in range(120)),), 140),
        "unfinished bodies of 4 MB": Attack((post(chats, b"x" * 4_000_000, key, length=4_190_000),), 140, False),
        "chunks of one byte, no key": Attack((chunked + b"\r\n" + tiny,), 4),
        "chunks of one byte": Attack((chunked + key.encode() + b"\r\n\r\n" + tiny,), 4),
        "bodies of 4 MB": Attack((post(chats, chat(user="x" * 4_000_000), key),), 20),
        "nesting of 100,000 levels": Attack((post(chats, deep, key),), 10),
        "190,000 values": Attack((post(chats, chat(logit_bias={f"{n}": 1 for n in range(95_000)}), key),), 4),
        "300,000 escapes": Attack((post(chats, half_pair, key),), 4),
        "10,000 functions": Attack((post(chats, chat(tools=tools), key),), 4),
        "30,000 messages": Attack((post(chats, chat(messages=turns), key),), 4),
        "16,000 items of Responses": Attack((post(answers, {"model": "victim", "input": items}, key),), 4),
        "15,000 calls of Gemini": Attack(
            (post(gemini, {"contents": [*contents, {"role": "user", "parts": results}]}, key),), 4
        ),
        "JSON Schema with long paths": Attack(
            (post(chats, chat(tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}]), key),), 4
        ),
        "100,000 inputs of embeddings": Attack(
            (post("/v1/embeddings", {"model": "victim", "input": ["x"] * 100_000}, key),), 4
        ),
        "10,000 requests on a connection": Attack((live + b"\r\n",) * 10_000, 4),
        "wrong keys": Attack((post(chats, {}, "Authorization: Bearer wrong"),), 50),
        "preflights": Attack((preflight,), 50),
        "WebSocket upgrades": Attack((upgrade,), 50),
        "TLS on the plain port": Attack((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 5_000,), 50),
        "HTTP/2 preface": Attack((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 5_000,), 50),
        "queries of 15 KB": Attack((b"GET /v1/models?" + b"a=1&" * 3_800 + b" HTTP/1.1\r\nHost: x\r\n\r\n",), 50),
        "streams that nobody reads": Attack((post(chats, chat(stream=True), key),), 30, False),
        "idle connections": Attack((b"G",), 600, False),
        "log flood of a plugin": Attack((post("/v1/handlers/victim/log", {}, key),)),
        "output flood of a plugin": Attack((post("/v1/handlers/victim/write", {}, key),)),
    }


async def _attack(attack: Attack, port: int, seconds: float) -> None:
    until = time.perf_counter() + seconds

    async def send() -> None:
        while time.perf_counter() < until:
            with suppress(OSError, TimeoutError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"".join(attack.requests))
                    if attack.is_read:
                        async with asyncio.timeout(RESPONSE_S):
                            await reader.read(100_000)
                    else:
                        await asyncio.sleep(until - time.perf_counter())
                finally:
                    writer.close()

    if attack.requests:
        await asyncio.gather(*(send() for _ in range(attack.connections)))
    else:
        await asyncio.sleep(seconds)


def _run_attack(attack: Attack, port: int, seconds: float) -> None:
    os.nice(5)  # another machine in reality: it must not take the host's processor
    asyncio.run(_attack(attack, port, seconds))


class Check(NamedTuple):
    """One health check: milliseconds, and those of the host's processor time; infinite without a 200."""

    latency_ms: float
    cpu_ms: float


async def _check_health(host: servers.Server, is_over: Callable[[], bool]) -> list[Check]:
    """Return the health checks until the attack is over."""
    port, clock = int(host.url.rpartition(":")[2]), _cpu_clock(host.process.pid)
    checks = []
    while not is_over():
        used_s, started = time.clock_gettime(clock), time.perf_counter()
        is_healthy = False
        with suppress(ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            is_healthy = b" 200 " in (await reader.read())[:20]
            writer.close()
        check = Check((time.perf_counter() - started) * 1000, (time.clock_gettime(clock) - used_s) * 1000)
        checks.append(check if is_healthy else Check(math.inf, math.inf))
        await asyncio.sleep(PAUSE_S)
    return checks


def _cpu_clock(pid: int) -> int:
    """Return the clock of the processor time of a process and its threads (``clock_getcpuclockid``)."""
    return (~pid << 3) | 2


def measure(host: servers.Server, name: str, attack: Attack, seconds: float, turns: Path) -> tuple[object, ...]:
    """Run an attack; return its row of the table. ``turns`` is the file with the longest turn of the loop."""
    port = int(host.url.rpartition(":")[2])
    used = host.cpu()
    with turns.open("r+b") as file:  # the host has mapped it: it must not become shorter
        file.write(SECONDS.pack(0.0))
    process = multiprocessing.get_context("fork").Process(target=_run_attack, args=(attack, port, seconds))
    process.start()
    checks = asyncio.run(_check_health(host, lambda: not process.is_alive()))
    process.join()
    used = host.cpu() - used
    (turn_s,) = SECONDS.unpack(turns.read_bytes())
    time.sleep(REST_S)
    latencies, cpu = sorted(check.latency_ms for check in checks), sorted(check.cpu_ms for check in checks)
    memory = megabytes(servers.pss_of(host.process.pid))
    figures = (len(checks), latencies[len(checks) // 2], latencies[-1], cpu[len(checks) // 2], cpu[-1], turn_s * 1000)
    return name, *figures, used, memory, tables.verdict(cpu[-1], TARGET_MS)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of each attack")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of the names of the attacks to run")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(*tables.header(), sep="\n", flush=True)
    columns = ["attack", "checks", "median ms", "max ms", "median CPU ms", "max CPU ms", "longest turn"]
    columns += ["CPU s", "host MB afterwards", "within 100 ms"]
    print("\n### Health checks during attacks of one client\n")
    with tempfile.TemporaryDirectory(prefix="bench-attack-") as directory:
        servers.install(Path(directory), "victim", PLUGIN)
        config = f'[catalog]\nroots = ["{directory}"]\n[memory]\nlimit = "1GB"\n'
        turns = Path(directory, "turns")
        turns.write_bytes(SECONDS.pack(0.0))
        program = (str(Path(loop_turns.__file__)), str(turns))
        with servers.host(config, {"HANDLER_HOST_API_KEYS": KEY}, program=program) as host:
            host.admin("/admin/handlers/victim/load", "POST")
            print(tables.row(columns), "|" + "---|" * len(columns), sep="\n", flush=True)
            for name, attack in attacks().items():
                if any(part in name for part in options.only):
                    print(tables.row(measure(host, name, attack, options.seconds, turns)), flush=True)
    print(f"\n{options.seconds:g} s of each attack, one run; load now {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
