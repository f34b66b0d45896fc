"""Measure several workers of a handler, and many slow streams on one: ``python -m bench.workers``.

gpt_a through the host, in front of a provider on loopback whose streams come at once or take a second. Three tables:
throughput with one worker and with two, in turns; 128 slow streams by ``max_concurrency``; and what one more worker of
the same SDK costs, with and without the SDK in the fork server. Each table is printed when it is complete; all three
take about four minutes on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
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
ANY_LOAD = """\
import sys
from handler_host.cli.main import main
from handler_host.lifecycle import processor_load
processor_load.BOUND_SHARE, processor_load.MIN_IDLE = 0.0, -1000.0
sys.exit(main())
"""
"""The host, but any load is enough for the second worker: by its own rules it has none for a slow provider or on a busy
machine, and what it refuses would not be measured."""
GROWTH_RUNS = 20
"""Runs in which the second worker must have started."""
ROUNDS = 8
"""Requests of each connection in a run with a slow provider."""


@contextlib.contextmanager
def running(response_s: float, *, concurrency: int, workers: int = 1, preload: str = "[]") -> Iterator[servers.Server]:
    """Run the host with gpt_a in front of a provider whose streams take ``response_s``."""
    with servers.upstream(CHUNKS, response_s / CHUNKS) as provider:
        config = CONFIG.format(url=provider.url, concurrency=concurrency, workers=workers, preload=preload)
        with servers.host(config, SECRETS, program=("-c", ANY_LOAD)) as host:
            yield host


def throughput(response_s: float, connections: int, requests: int, repeats: int) -> list[tuple[object, ...]]:
    """Return the rows of one worker and of two, which are measured in turns: medians of several runs."""
    requests = ROUNDS * connections if response_s else requests
    rates: dict[int, list[float]] = {1: [], 2: []}
    cpu = dict.fromkeys(rates, 0.0)
    with contextlib.ExitStack() as stack:
        hosts = {
            workers: stack.enter_context(running(response_s, concurrency=128, workers=workers)) for workers in rates
        }
        for workers, host in hosts.items():
            for _ in range(GROWTH_RUNS):
                load(f"{host.url}/v1/chat/completions", connections, 4 * connections, BODY, True)
                if len(host.admin("/admin/handlers/gpt_a")["workers"]) == workers:
                    break
            else:
                raise SystemExit(f"the host has not grown to {workers} workers")
        for _ in range(repeats):
            for workers, host in hosts.items():
                before = host.cpu()
                figures = load(f"{host.url}/v1/chat/completions", connections, requests, BODY, True)
                rates[workers].append(figures["per_second"])
                cpu[workers] += (host.cpu() - before) / requests / repeats
    one = statistics.median(rates[1])
    return [
        (
            f"{response_s:g} s",
            connections,
            workers,
            f"{statistics.median(rates[workers]):.0f}/s",
            f"{min(rates[workers]):.0f} to {max(rates[workers]):.0f}",
            tables.ratio(statistics.median(rates[workers]), one),
            f"{cpu[workers] * 1e3:.2f} ms",
        )
        for workers in rates
    ]


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
    parser.add_argument("--requests", type=int, default=1000, help="requests in each run")
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
            row
            for response_s in (0.0, 1.0)
            for connections in (32, 128)
            for row in throughput(response_s, connections, options.requests, options.repeats)
        ]
        tables.print_table(
            "Throughput of gpt_a, streamed",
            ("provider", "connections", "workers", "median", "runs", "of one worker", "CPU each"),
            rows,
        )


if __name__ == "__main__":
    main()
