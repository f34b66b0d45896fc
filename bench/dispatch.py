"""Measure what a dispatch through host and worker costs: ``python -m bench.dispatch``.

An echo handler through the host (HTTP, lease, channel, worker process) against the
same echo in bare aiohttp, with the same load generator, in alternating runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import servers, tables

THROUGHPUT_TARGET = 0.8
MEDIAN_TARGET_MS = 0.5
ECHO = '''\
"""Returns its request."""
from handler_host.plugin import operation

class Handler:
    @operation
    async def echo(self, request: dict) -> dict:
        return request

    @operation
    async def stream(self, request: dict):
        for number in range(request["chunks"]):
            yield {"number": number}
'''
MESSAGE = {"text": "What is the capital of France?", "numbers": [1, 2, 3], "nested": {"deep": True}}
CHUNKS = 20


def load(
    url: str, connections: int, requests: int, body: object, streamed: bool, key: str | None = None
) -> dict[str, float]:
    """Run the load generator in a process of its own; return its figures."""
    command = [sys.executable, "-m", "bench.load", url, "--connections", str(connections)]
    command += ["--requests", str(requests), "--body", json.dumps(body)]
    command += ["--header", "Accept=text/event-stream" if streamed else "Accept=application/json"]
    command += ["--header", f"Authorization=Bearer {key}"] if key is not None else []
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if figures["failed"]:
        raise SystemExit(
            f"{figures['failed']:.0f} of {requests} requests to {url} failed; a run with failures has no figures"
        )
    return figures


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=8000, help="requests in each run")
    options = parser.parse_args()
    print(*tables.header(), f"runs: {options.runs} of each, alternating; medians", sep="\n")
    rows, missed = [], []
    with tempfile.TemporaryDirectory(prefix="bench-echo-") as directory:
        servers.install(Path(directory), "echo", ECHO)
        config = (
            f'[catalog]\nroots = ["{directory}"]\ninclude_sys_path = false\n'
            "[handlers.echo]\nmax_queue = 512\nmax_concurrency = 256\n"
        )
        with servers.bare() as bare, servers.host(config) as host:
            host.post("/v1/handlers/echo/echo", MESSAGE)
            for streamed in (False, True):
                body = {"chunks": CHUNKS} if streamed else MESSAGE
                name = "stream" if streamed else "echo"
                requests = options.requests // 8 if streamed else options.requests
                for connections in (1, 32, 256):
                    count = requests // 4 if connections == 1 else requests
                    samples: dict[str, list[dict[str, float]]] = {"bare": [], "host": []}
                    for _ in range(options.runs):
                        for which, server, path in (
                            ("bare", bare, f"/{name}"),
                            ("host", host, f"/v1/handlers/echo/{name}"),
                        ):
                            before = server.cpu()
                            figures = load(server.url + path, connections, count, body, streamed)
                            figures["cpu"] = (server.cpu() - before) / count
                            samples[which].append(figures)
                    middle = {
                        which: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                        for which, runs in samples.items()
                    }
                    share = statistics.median(
                        ours["per_second"] / theirs["per_second"]
                        for ours, theirs in zip(samples["host"], samples["bare"], strict=True)
                    )
                    more = (middle["host"]["median"] - middle["bare"]["median"]) * 1000
                    target = ""
                    if connections == 32 and not streamed:
                        target = f"throughput >= {THROUGHPUT_TARGET}: " + tables.verdict(
                            share, THROUGHPUT_TARGET, at_least=True
                        )
                    if connections == 1 and not streamed:
                        target = f"median <= +{MEDIAN_TARGET_MS} ms: " + tables.verdict(more, MEDIAN_TARGET_MS)
                    if "MISSED" in target:
                        missed.append(target)
                    kind = f"SSE, {CHUNKS} chunks" if streamed else "JSON"
                    for which in ("bare", "host"):
                        figures = middle[which]
                        rows.append(
                            (
                                kind,
                                connections,
                                which,
                                f"{figures['per_second']:.0f}",
                                f"{figures['median'] * 1000:.2f}",
                                f"{figures['p99'] * 1000:.2f}",
                                f"{figures['cpu'] * 1e6:.0f}",
                                f"{share:.2f}" if which == "host" else "",
                                target if which == "host" else "",
                            )
                        )
    tables.print_table(
        "Dispatch of a warm echo, host against bare aiohttp",
        ["response", "connections", "server", "requests/s", "median ms", "p99 ms", "CPU us", "of bare", "target"],
        rows,
        ["CPU is that of all processes of the server for one request."],
    )
    if missed:
        print("\nmissed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
