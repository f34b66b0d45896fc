"""Restart hosts behind HAProxy one after the other, under load: ``python -m bench.rolling``.

Clients send chats all the time, whole ones and streams, through HAProxy, which checks ``/health/ready`` and repeats a
request if it could not connect or got 503. Each host gets SIGTERM, ends, and starts again at its port; the next one
follows when it is ready. Prints requests, failures by reason, and the longest wait for a first byte.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench import providers, servers, tables

CHUNK_S = 0.05
"""Time between two chunks of a stream."""
CHUNKS = 20
HANDLER = f'''
import asyncio
from handler_host.chat import ChatHandler

class Handler(ChatHandler):
    """Responds with {CHUNKS} chunks, like a provider does."""

    async def stream(self, request):
        for number in range({CHUNKS}):
            await asyncio.sleep({CHUNK_S})
            yield f"{{number}} "
'''
HOST = """
[server]
port = {port}
shutdown_delay = "{delay_s}s"
drain_timeout = "20s"
[catalog]
roots = ["{root}"]
include_sys_path = false
[defaults]
preload = []
[log]
requests = "none"
"""
PROXY = """
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout check 2s
    option redispatch
    retries 3
    retry-on {retry_on}
frontend clients
    bind 127.0.0.1:{port}
    default_backend hosts
backend hosts
    balance leastconn
    option httpchk GET /health/ready
    default-server check inter 300ms fall 1 rise 1
{hosts}
"""


@dataclass
class Outcome:
    """What the clients have seen."""

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    longest_wait_s: float = 0.0
    """For the first byte of a response."""


class Host:
    """One host of the group; it keeps its port when it restarts."""

    def __init__(self, root: Path, port: int, shutdown_delay_s: float) -> None:
        self.port = port
        self._directory = root / str(port)
        self._directory.mkdir()
        self._config = self._directory / "host.toml"
        self._config.write_text(HOST.format(port=port, root=root, delay_s=shutdown_delay_s))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the host; return when it is ready."""
        state = str(self._directory)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "handler_host", "serve", "--config", str(self._config)),
            env=servers.inherited()
            | {"HANDLER_HOST_ADMIN_TOKEN": servers.TOKEN, "XDG_DATA_HOME": state, "XDG_STATE_HOME": state},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), servers.TIMEOUT_S)
        assert line.startswith(b"ready "), line

    async def stop(self) -> None:
        """Send SIGTERM; return when the host has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await asyncio.wait_for(self._process.wait(), servers.TIMEOUT_S)


@contextlib.asynccontextmanager
async def proxy(hosts: list[Host], directory: Path, retry_on: str) -> AsyncIterator[str]:
    """Run HAProxy in front of the hosts; yield its URL."""
    port = providers.free_port()
    config = directory / "haproxy.cfg"
    lines = "\n".join(f"    server host{host.port} 127.0.0.1:{host.port}" for host in hosts)
    config.write_text(PROXY.format(port=port, hosts=lines, retry_on=retry_on))
    process = await asyncio.create_subprocess_exec(
        "haproxy", "-q", "-f", str(config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def send(session: aiohttp.ClientSession, url: str, outcome: Outcome, *, streamed: bool) -> None:
    """Send one chat and note what came back."""
    body = {"model": "words", "stream": streamed, "messages": [{"role": "user", "content": "hello"}]}
    started_at = time.perf_counter()
    outcome.requests += 1
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            first = await response.content.readany()
            outcome.longest_wait_s = max(outcome.longest_wait_s, time.perf_counter() - started_at)
            content = first + await response.read()
        if response.status != 200:
            outcome.failures[f"status {response.status} ({code_of(content)})"] += 1
        elif streamed and not content.rstrip().endswith(b"[DONE]"):
            outcome.failures["truncated stream"] += 1
        elif not streamed:
            json.loads(content)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        outcome.failures[type(error).__name__] += 1


def code_of(content: bytes) -> str:
    """Return the code of a host's error; the proxy's own errors are HTML."""
    try:
        return str(json.loads(content)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "of the proxy"


async def roll(
    hosts: int = 3,
    clients: int = 16,
    rounds: int = 1,
    shutdown_delay_s: float = 5.0,
    retry_on: str = "conn-failure 503",
) -> Outcome:
    """Restart each host in turn, ``rounds`` times, while clients send chats; half of the clients stream.

    ``retry_on`` names the failures after which HAProxy repeats a request.
    """
    with tempfile.TemporaryDirectory(prefix="bench-rolling-") as directory:
        root = Path(directory)
        servers.install(root, "words", HANDLER)
        group = [Host(root, port, shutdown_delay_s) for port in providers.free_ports(hosts)]
        outcome, ended = Outcome(), asyncio.Event()
        try:
            await asyncio.gather(*(host.start() for host in group))
            async with (
                proxy(group, root, retry_on) as url,
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
            ):
                await ready(session, url)

                async def client(number: int) -> None:
                    while not ended.is_set():
                        await send(session, url, outcome, streamed=number % 2 == 0)

                load = [asyncio.create_task(client(number)) for number in range(clients)]
                for host in group * rounds:
                    await asyncio.sleep(1.0)
                    await host.stop()
                    await host.start()
                    await asyncio.sleep(1.0)
                ended.set()
                await asyncio.gather(*load)
        finally:
            await asyncio.gather(*(host.stop() for host in group))
        return outcome


async def ready(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until HAProxy has found a host."""
    async with asyncio.timeout(servers.TIMEOUT_S):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/health/ready") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if shutil.which("haproxy") is None:
        sys.exit("haproxy is not installed")
    for line in tables.header():
        print(line)
    outcome = asyncio.run(roll(arguments.hosts, arguments.clients, arguments.rounds))
    failures = ", ".join(f"{count} {reason}" for reason, count in outcome.failures.items()) or "0"
    tables.print_table(
        f"{arguments.hosts} hosts behind HAProxy, each restarted {arguments.rounds} times",
        ("clients", "requests", "failures", "longest wait (s)"),
        [(arguments.clients, outcome.requests, failures, outcome.longest_wait_s)],
        [f"A response takes {CHUNKS * CHUNK_S:g} s; load average {os.getloadavg()[0]:.1f}."],
    )
    sys.exit(1 if outcome.failures else 0)


if __name__ == "__main__":
    main()
