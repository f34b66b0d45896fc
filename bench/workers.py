"""Measure several workers of a handler, and many slow streams on one: ``python -m bench.workers``.

gpt_a through the host, in front of a provider on loopback that responds at once or after a second. Three tables:
throughput with one worker and with two; 128 slow streams by ``max_concurrency``; and what one more worker of the
same SDK costs, with and without the SDK in the fork server.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

from bench import servers, tables
from bench.dispatch import load

PROVIDER = """\
import asyncio, json, sys
from aiohttp import web

DELAY_S = float(sys.argv[1])

def chunk(delta, reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

async def chat(request):
    await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await asyncio.sleep(DELAY_S)
    chunks = [chunk({"role": "assistant", "content": "word "}) for _ in range(8)]
    for item in [*chunks, chunk({}, "stop")]:
        await response.write(b"data: " + json.dumps(item).encode() + b"\\n\\n")
    await response.write(b"data: [DONE]\\n\\n")
    return response

async def main():
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print("http://127.0.0.1:%d" % runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
CONFIG = """\
[defaults]
max_queue = 512
idle_after = "never"
[handlers.gpt_a]
base_url = "{url}/v1"
native = false
max_concurrency = {concurrency}
max_workers = {workers}
min_workers = {workers}
grow_after = "0.5s"
[handlers.gpt_a2]
plugin = "gpt_a"
base_url = "{url}/v1"
preload = {preload}
"""
SECRETS = {"OPENAI_API_KEY": "none"}
BODY = {"model": "gpt_a", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
GROWTH_S = 20.0
"""Longest time to wait for the second worker: on a busy machine it does not start."""


@contextlib.contextmanager
def provider(delay_s: float) -> Iterator[str]:
    """Run a provider that starts its responses after ``delay_s``; yield its URL."""
    process = subprocess.Popen([sys.executable, "-c", PROVIDER, str(delay_s)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def running(url: str, *, concurrency: int, workers: int = 1, preload: str = "[]") -> Iterator[servers.Server]:
    """Run the host with gpt_a in front of a provider."""
    config = CONFIG.format(url=url, concurrency=concurrency, workers=workers, preload=preload)
    with servers.host(config, SECRETS) as host:
        yield host


def throughput(delay_s: float, workers: int, connections: int, requests: int) -> tuple[object, ...]:
    """Return the row of one run."""
    with provider(delay_s) as url, running(url, concurrency=128, workers=workers) as host:
        end = time.monotonic() + GROWTH_S
        present = 0
        while present < workers and time.monotonic() < end:
            load(f"{host.url}/v1/chat/completions", connections, 4 * connections, BODY, True)
            present = len(host.admin("/admin/handlers/gpt_a")["workers"])
        before = host.cpu()
        figures = load(f"{host.url}/v1/chat/completions", connections, requests, BODY, True)
        cpu = (host.cpu() - before) / requests
        return (
            f"{delay_s:g} s",
            workers,
            present,
            connections,
            f"{figures['per_second']:.0f}/s",
            f"{cpu * 1e3:.2f} ms",
        )


def slow_streams(concurrency: int, requests: int) -> tuple[object, ...]:
    """Return the row of 128 slow streams with this ``max_concurrency``."""
    with provider(1.0) as url, running(url, concurrency=concurrency) as host:
        load(f"{host.url}/v1/chat/completions", 8, 16, BODY, True)
        resting, before = host.pss(), host.cpu()
        figures = load(f"{host.url}/v1/chat/completions", 128, requests, BODY, True)
        cpu, growth = (host.cpu() - before) / requests, host.pss() - resting
        return (concurrency, f"{figures['per_second']:.0f}/s", f"{cpu * 1e3:.2f} ms", f"{growth / 1024**2:.1f} MB")


def second_worker(preload: str) -> tuple[object, ...]:
    """Return the row of one more worker of the same SDK."""
    with provider(0.0) as url, running(url, concurrency=32, preload=preload) as host:
        host.admin("/admin/handlers/gpt_a/load", "POST")
        first = host.pss()
        receipt = host.admin("/admin/handlers/gpt_a2/load", "POST")
        added = host.pss() - first
        return (
            preload,
            f"{first / 1024**2:.1f} MB",
            f"{added / 1024**2:.1f} MB",
            f"{receipt['activate_seconds']:.2f} s",
        )


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="requests in each run")
    parser.add_argument("--only", choices=["throughput", "streams", "memory"], help="one of the tables")
    options = parser.parse_args()
    print(*tables.header(), sep="\n")
    if options.only in (None, "memory"):
        rows = [second_worker(preload) for preload in ("[]", '["openai"]')]
        tables.print_table(
            "One more worker of the same SDK", ("in the fork server", "tree with one", "one more", "activation"), rows
        )
    if options.only in (None, "streams"):
        rows = [slow_streams(concurrency, options.requests) for concurrency in (32, 64, 128)]
        tables.print_table(
            "128 streams of a provider of 1 s", ("max_concurrency", "128 streams", "CPU each", "more memory"), rows
        )
    if options.only in (None, "throughput"):
        rows = [
            throughput(delay_s, workers, connections, options.requests)
            for delay_s in (0.0, 1.0)
            for connections in (32, 128)
            for workers in (1, 2)
        ]
        tables.print_table(
            "Throughput of gpt_a, streamed",
            ("provider", "max_workers", "present", "connections", "throughput", "CPU each"),
            rows,
        )


if __name__ == "__main__":
    main()
