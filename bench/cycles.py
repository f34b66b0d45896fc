"""Look for leaks: ``python -m bench.cycles``.

Many rounds of activate, dispatch, unload; memory, file descriptors, threads and
zombies of the host and its fork server before and after.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from bench import servers, tables
from bench.dispatch import ECHO, MESSAGE
from bench.memory import CONFIG, megabytes

TARGET = 2**20
"""Bytes of PSS by which the tree may grow."""


def count(host: servers.Server) -> dict[str, int]:
    """Return PSS in bytes, and the numbers of processes, file descriptors, threads and zombies."""
    pids = host.pids
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return {
        "pss": servers.settle(host),
        "processes": len(pids),
        "fds": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        "threads": sum(int(fields[17]) for fields in stats),
        "zombies": sum(fields[0] == "Z" for fields in stats),
    }


def run(host: servers.Server, name: str, cycles: int, dispatch: bool) -> tuple[dict[str, int], dict[str, int], float]:
    """Return the counts before and after, and the seconds of one cycle."""

    def cycle() -> None:
        if dispatch:
            host.post(f"/v1/handlers/{name}/echo", MESSAGE)
        else:
            host.admin(f"/admin/handlers/{name}/load", "POST")
        host.admin(f"/admin/handlers/{name}/unload", "POST")

    for _ in range(3):
        cycle()
    before = count(host)
    started = time.perf_counter()
    for _ in range(cycles):
        cycle()
    return before, count(host), (time.perf_counter() - started) / cycles


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000, help="rounds of the small plugin")
    parser.add_argument("--sdk-cycles", type=int, default=30, help="rounds of gpt_a")
    options = parser.parse_args()
    print(*tables.header(), "runs: 1; before is after three cycles; MB are 2**20 bytes of PSS", sep="\n")
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-cycles-") as directory:
        servers.install(Path(directory), "echo", ECHO)
        config = CONFIG.format(linger="10m", url="http://127.0.0.1:9") + f'[catalog]\nroots = ["{directory}"]\n'
        with servers.host(config) as host:
            for name, cycles, dispatch in (("echo", options.cycles, True), ("gpt_a", options.sdk_cycles, False)):
                before, after, seconds = run(host, name, cycles, dispatch)
                grown = after["pss"] - before["pss"]
                clean = (
                    all(after[key] == before[key] for key in ("processes", "fds", "threads")) and not after["zombies"]
                )
                rows.append(
                    (
                        name,
                        cycles,
                        megabytes(before["pss"]),
                        megabytes(after["pss"]),
                        f"{grown / 2**20:+.2f}",
                        *(f"{before[key]} -> {after[key]}" for key in ("processes", "fds", "threads", "zombies")),
                        f"{seconds * 1000:.0f}",
                        tables.verdict(grown, TARGET) if clean else "MISSED",
                    )
                )
    tables.print_table(
        "Activate, dispatch, unload, many times (host and fork server)",
        [
            "handler",
            "cycles",
            "PSS MB before",
            "after",
            "grown",
            "processes",
            "fds",
            "threads",
            "zombies",
            "ms each",
            "target",
        ],
        rows,
        ["target: growth within 1 MB, and the same numbers as before"],
    )


if __name__ == "__main__":
    main()
