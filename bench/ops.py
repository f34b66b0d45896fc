"""Measure what metrics and dashboard cost: ``python -m bench.ops``.

PSS and processor time of the host without observers, with one scrape a second, and
with a viewer of the dashboard in addition: the page's own request every two seconds,
and its stream of events.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

from bench import servers, tables

MEMORY_TARGET = 3 * 2**20
"""Bytes that dashboard and metrics may take."""
CPU_TARGET = 0.01
"""Share of a core that dashboard and metrics may take."""


@contextlib.contextmanager
def every(seconds: float, work: Callable[[], object]) -> Iterator[None]:
    """Call ``work`` at an interval in seconds, in a thread, while the block runs."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def scrape(host: servers.Server) -> None:
    request = urllib.request.Request(host.url + "/metrics", headers={"Authorization": f"Bearer {servers.TOKEN}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
        response.read()


@contextlib.contextmanager
def viewer(host: servers.Server) -> Iterator[None]:
    """Send the requests of an open dashboard while the block runs."""
    for name in ("", "static/app.js", "static/uplot.js", "static/style.css"):
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{host.url}/admin/{name}") as response:
            response.read()
    headers = {"Authorization": f"Bearer {servers.TOKEN}"}
    request = urllib.request.Request(host.url + "/admin/events?replay=200", headers=headers)
    last = {"number": 0}

    def poll() -> None:
        overview = host.admin(f"/admin/overview?since={last['number']}")
        if overview["history"]:
            last["number"] = overview["history"][-1][0]

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=600) as stream:
        stream.readline()
        with every(2.0, poll):
            yield


def watched(host: servers.Server, seconds: float) -> tuple[float, float]:
    """Return the share of a core that the host uses over ``seconds``, and its PSS in bytes afterwards."""
    before, started = host.cpu(), time.monotonic()
    time.sleep(seconds)
    share = (host.cpu() - before) / (time.monotonic() - started)
    return share, servers.settle(host)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    print(*tables.header("prometheus-client"), f"runs: {options.runs}, {options.seconds:g} s each; medians", sep="\n")
    stages = ("no observer", "one scrape a second", "one scrape a second and one viewer")
    samples: dict[str, list[tuple[float, float]]] = {stage: [] for stage in stages}
    for _ in range(options.runs):
        with servers.host() as host:
            servers.settle(host)
            samples[stages[0]].append(watched(host, options.seconds))
            scrape(host)
            with every(1.0, lambda: scrape(host)):
                samples[stages[1]].append(watched(host, options.seconds))
                with viewer(host):
                    samples[stages[2]].append(watched(host, options.seconds))
    shares = {stage: statistics.median(share for share, _ in runs) for stage, runs in samples.items()}
    sizes = {stage: statistics.median(size for _, size in runs) for stage, runs in samples.items()}
    idle = stages[0]
    rows = [
        (
            stage,
            f"{sizes[stage] / 2**20:.1f}",
            f"{(sizes[stage] - sizes[idle]) / 2**20:.1f}",
            tables.verdict(sizes[stage] - sizes[idle], MEMORY_TARGET),
            f"{shares[stage] * 100:.2f}",
            tables.verdict(shares[stage] - shares[idle], CPU_TARGET),
        )
        for stage in stages
    ]
    columns = ["observers", "PSS MB", "more MB", "<= 3 MB", "CPU % of a core", "<= 1 %"]
    tables.print_table("Cost of metrics and dashboard", columns, rows)


if __name__ == "__main__":
    main()
