"""Compare workers on a Ray cluster with local ones: ``python -m bench.remote`` (as root, after ``make cluster``).

The cluster has a head and one node, in network namespaces. An echo runs in three hosts: with a local worker, and with
one on the node, without and with TLS. The hosts are measured in turns, so that the load of the machine is the same.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench import servers, tables
from bench.dispatch import ECHO, MESSAGE, load
from tests.cluster.ray_cluster import MB, Node, RayCluster, descendants, running_cluster, why_not

CONNECTIONS = (1, 32)
CONFIG = """\
[catalog]
roots = ["{root}"]
include_sys_path = false
[defaults]
idle_after = "never"
max_queue = 512
max_concurrency = 256
preload = []
[handlers.echo]
{isolation}
{launcher}
"""
WORKER = b"handler_host.workers.runtime"
"""Part of the command line of a worker on a node."""


@contextlib.contextmanager
def hosts(root: Path, cluster: RayCluster) -> Iterator[Mapping[str, servers.Server]]:
    """Run the three hosts; yield them by the name of their worker's place."""
    keys = "\n".join(f'{name} = "{value}"' for name, value in cluster.options.items())
    with contextlib.ExitStack() as stack:
        running = {}
        for name, tls in (("local", ""), ("node, plain", "false"), ("node, TLS", "true")):
            launcher = "" if not tls else f"[launchers.ray]\nheadroom = 0\ntls = {tls}\n{keys}"
            isolation = "" if not tls else 'isolation = "ray"\nmemory_estimate = "100MB"'
            config = CONFIG.format(root=root, isolation=isolation, launcher=launcher)
            running[name] = stack.enter_context(servers.host(config))
        yield running


def activations(host: servers.Server, count: int) -> list[float]:
    """Activate the echo so often; return the seconds of each activation. It stays active."""
    seconds = []
    for _ in range(count):
        host.admin("/admin/handlers/echo/unload", "POST")
        seconds.append(float(host.admin("/admin/handlers/echo/load", "POST")["activate_seconds"]))
    return seconds


def worker_pids(node: Node) -> list[int]:
    """Return the process IDs of the workers on a node."""
    pids = []
    for pid in descendants(node.process.pid):
        with contextlib.suppress(OSError):
            if WORKER in Path(f"/proc/{pid}/cmdline").read_bytes():
                pids.append(pid)
    return pids


def pss_of_node(node: Node) -> int:
    """Return the PSS of all processes of a node, in bytes."""
    return sum(map(servers.pss_of, (node.process.pid, *descendants(node.process.pid))))


def throughput(
    running: Mapping[str, servers.Server], workers: Mapping[str, list[int]], requests: int, rounds: int
) -> Iterator[tuple[object, ...]]:
    """Yield a row for each number of connections and place: medians, and ratios to the local worker of each round."""
    for connections in CONNECTIONS:
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in running}
        for _ in range(rounds):
            for name, host in running.items():
                before = cpu(host, workers[name])
                url = f"{host.url}/v1/handlers/echo/echo"
                figures = load(url, connections, requests, MESSAGE, False)
                used = (cpu(host, workers[name]) - before) / requests
                samples[name].append({"per_second": figures["per_second"], "median": figures["median"], "cpu": used})
        for name, runs in samples.items():
            pairs = list(zip(runs, samples["local"], strict=True))
            ratios = {key: statistics.median(run[key] / local[key] for run, local in pairs) for key in runs[0]}
            middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            yield (
                connections,
                name,
                f"{middle['per_second']:.0f}",
                f"{middle['median'] * 1e3:.2f}",
                f"{middle['cpu'] * 1e3:.2f}",
                *(f"{ratio:.2f}x" for ratio in ratios.values()),
            )


def cpu(host: servers.Server, workers: list[int]) -> float:
    """Return the seconds of processor time of a host's tree and of its worker on a node."""
    ticks = 0
    for pid in workers:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return host.cpu() + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000, help="requests in each run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--activations", type=int, default=5)
    options = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    print(*tables.header(), sep="\n")
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-remote-")))
        servers.install(root, "echo", ECHO)
        cluster = stack.enter_context(running_cluster())
        node = cluster.add_node(2000 * MB)
        running = stack.enter_context(hosts(root, cluster))
        memory: list[tuple[object, ...]] = [("host that is idle", size(servers.settle(running["local"])))]
        memory.append(("node without a worker", size(pss_of_node(node))))
        first, workers = {}, {}
        for name, host in running.items():
            before = set(worker_pids(node))
            first[name] = float(host.admin("/admin/handlers/echo/load", "POST")["activate_seconds"])
            workers[name] = sorted(set(worker_pids(node)) - before)
            if len(workers) == 2:
                memory.append(("node with one worker", size(pss_of_node(node))))
                memory.append(("of it, the worker", size(sum(map(servers.pss_of, workers[name])))))
                memory.append(("host with its driver", size(servers.settle(host))))
        assert cluster.head is not None
        memory.append(("head", size(pss_of_node(cluster.head))))
        memory.append(("host with a local worker", size(servers.settle(running["local"]))))
        tables.print_table("Memory (PSS)", ("processes", "MB"), memory)
        tables.print_table(
            "Echo, by the place of its worker",
            (
                "connections",
                "worker",
                "requests/s",
                "median ms",
                "CPU ms",
                "of local",
                "median of local",
                "CPU of local",
            ),
            throughput(running, workers, options.requests, options.rounds),
            ["CPU: of the host's processes and the worker for one request."],
        )
        rows = []
        for name, host in running.items():
            seconds = activations(host, options.activations)
            rows.append((name, first[name], statistics.median(seconds), f"{min(seconds):.2f} to {max(seconds):.2f}"))
        tables.print_table("Activation, in seconds", ("worker", "first", "median", "all"), rows)


def size(count: int) -> str:
    """Return bytes in MB."""
    return f"{count / MB:.1f}"


if __name__ == "__main__":
    main()
