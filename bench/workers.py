"""Measure several workers of a handler, and many slow streams on one: ``python -m bench.workers``.

gpt_a through the host, in front of a provider on loopback whose streams come at once or take a second. Three tables:
throughput with one worker and with two; 128 slow streams by ``max_concurrency``; and what one more worker of the
same SDK costs, with and without the SDK in the fork server.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator

from bench import servers, tables
from bench.dispatch import load

CHUNKS = 8
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
def running(response_s: float, *, concurrency: int, workers: int = 1, preload: str = "[]") -> Iterator[servers.Server]:
    """Run the host with gpt_a in front of a provider whose streams take ``response_s``."""
    with servers.upstream(CHUNKS, response_s / CHUNKS) as provider:
        config = CONFIG.format(url=provider.url, concurrency=concurrency, workers=workers, preload=preload)
        with servers.host(config, SECRETS) as host:
            yield host


def throughput(response_s: float, workers: int, connections: int, requests: int, repeats: int) -> tuple[object, ...]:
    """Return the row of a number of workers: the median of several runs."""
    with running(response_s, concurrency=128, workers=workers) as host:
        end = time.monotonic() + GROWTH_S
        present = 0
        while present < workers and time.monotonic() < end:
            load(f"{host.url}/v1/chat/completions", connections, 4 * connections, BODY, True)
            present = len(host.admin("/admin/handlers/gpt_a")["workers"])
        before = host.cpu()
        rates = [
            load(f"{host.url}/v1/chat/completions", connections, requests, BODY, True)["per_second"]
            for _ in range(repeats)
        ]
        cpu = (host.cpu() - before) / requests / repeats
        return (
            f"{response_s:g} s",
            workers,
            present,
            connections,
            f"{statistics.median(rates):.0f}/s",
            f"{min(rates):.0f} to {max(rates):.0f}",
            f"{cpu * 1e3:.2f} ms",
        )


def slow_streams(concurrency: int, requests: int) -> tuple[object, ...]:
    """Return the row of 128 slow streams with this ``max_concurrency``."""
    with running(1.0, concurrency=concurrency) as host:
        load(f"{host.url}/v1/chat/completions", 8, 16, BODY, True)
        resting, before = host.pss(), host.cpu()
        figures = load(f"{host.url}/v1/chat/completions", 128, requests, BODY, True)
        cpu, growth = (host.cpu() - before) / requests, host.pss() - resting
        return (concurrency, f"{figures['per_second']:.0f}/s", f"{cpu * 1e3:.2f} ms", f"{growth / 1024**2:.1f} MB")


def second_worker(preload: str) -> tuple[object, ...]:
    """Return the row of one more worker of the same SDK."""
    with running(0.0, concurrency=32, preload=preload) as host:
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
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs for each row of the throughput; it is their median"
    )
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
            throughput(response_s, workers, connections, options.requests, options.repeats)
            for response_s in (0.0, 1.0)
            for connections in (32, 128)
            for workers in (1, 2)
        ]
        tables.print_table(
            "Throughput of gpt_a, streamed",
            ("provider", "max_workers", "present", "connections", "median", "runs", "CPU each"),
            rows,
        )


if __name__ == "__main__":
    main()
