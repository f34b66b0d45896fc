"""Measure discovery and start: ``python -m bench.discovery``.

1. A warm scan of 1,000 distributions, 20 of them plugins with a manifest, again and as the first one of a process,
   against ``importlib.metadata.entry_points()`` on the same directory.
2. From the start of the process to the first response, against a bare aiohttp server.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from bench import tables
from handler_host.catalog.catalog import scan
from handler_host.catalog.manifest import GROUP, parse_manifest
from handler_host.config import CatalogConfig

DISTRIBUTIONS = 1000
PLUGINS = 20
SCAN_TARGET_MS = 15.0
READY_TARGET = 1.5

MANIFEST = """\
title = "Plugin {number}"
description = "One of {count} plugins of a benchmark."
requires_host = ">=0.1"

[operations.chat]
summary = "Answers a chat request"

[secrets.PLUGIN_{number}_KEY]
required = false
description = "The provider's key"

[config.model]
type = "string"
default = "model-{number}"
enum = ["model-{number}", "other"]

[config.temperature]
type = "number"
default = 0.7
minimum = 0
maximum = 2

[memory]
estimate = "80MB"

[timeouts]
activate = "60s"
"""

BARE = """\
import asyncio
from aiohttp import web

async def live(request):
    return web.json_response({"status": "live"})

app = web.Application()
app.router.add_get("/health/live", live)

async def main():
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print("ready http://127.0.0.1:%d" % runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def make_root(root: Path) -> None:
    """Install ``DISTRIBUTIONS`` distributions, of which every fiftieth is a plugin."""
    for number in range(DISTRIBUTIONS):
        name = f"package_{number}"
        info = root / f"{name}-1.{number}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.{number}\n")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n{info.name}/METADATA,,\n")
        package = root / name
        package.mkdir()
        (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
        if number % (DISTRIBUTIONS // PLUGINS) == 0:
            (info / "entry_points.txt").write_text(f"[handler_host.v1]\nplugin_{number} = {name}:Plugin\n")
            (package / "handler.toml").write_text(MANIFEST.format(number=number, count=PLUGINS))
        elif number % 3 == 0:
            (info / "entry_points.txt").write_text(f"[console_scripts]\ncommand-{number} = {name}.cli:main\n")


def milliseconds(work: Callable[[], object], runs: int) -> list[float]:
    """Return the milliseconds of each run."""
    durations = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        durations.append((time.perf_counter() - started) * 1000)
    return durations


def scan_first(settings: CatalogConfig) -> None:
    """Scan as the first time in a process, which parses each manifest."""
    parse_manifest.cache_clear()
    scan(settings, {})


def measure_scan(runs: int) -> bool:
    """Print the table on scanning; return whether the target is reached."""
    with tempfile.TemporaryDirectory(prefix="bench-discovery-") as directory:
        root = Path(directory)
        make_root(root)
        settings = CatalogConfig(roots=(root,), include_sys_path=False)
        catalog = scan(settings, {})
        problems = {name: entry.problem for name, entry in catalog.entries.items() if entry.problem is not None}
        assert catalog.distributions == DISTRIBUTIONS, catalog.distributions
        assert len(catalog.entries) == PLUGINS, catalog.entries
        assert all(entry.manifest is not None for entry in catalog.entries.values())
        assert not problems, problems
        before = set(sys.modules)
        ours = milliseconds(lambda: scan(settings, {}), runs)
        first = milliseconds(lambda: scan_first(settings), runs)
        imported = [name for name in set(sys.modules) - before if name.startswith("package_")]

        path = sys.path[:]
        sys.path[:] = [directory]
        try:
            assert len(entry_points(group=GROUP)) == PLUGINS
            theirs = milliseconds(lambda: entry_points(group=GROUP), runs)
        finally:
            sys.path[:] = path
    own_ms, first_ms, stdlib_ms = map(statistics.median, (ours, first, theirs))
    tables.print_table(
        f"discovery: {DISTRIBUTIONS} distributions, {PLUGINS} of them plugins; warm, {runs} runs",
        ["scan", "median ms", "best ms", "worst ms", "ratio", "plugin modules imported"],
        [
            [
                "handler_host.catalog.catalog.scan, manifests read and compared",
                own_ms,
                min(ours),
                max(ours),
                "1.00x",
                len(imported),
            ],
            [
                "the same with all manifests parsed, as at the start",
                first_ms,
                min(first),
                max(first),
                tables.ratio(first_ms, own_ms),
                len(imported),
            ],
            [
                "importlib.metadata.entry_points(), names only",
                stdlib_ms,
                min(theirs),
                max(theirs),
                tables.ratio(stdlib_ms, own_ms),
                0,
            ],
        ],
        [f"target: at most {SCAN_TARGET_MS:.0f} ms, nothing imported: {tables.verdict(own_ms, SCAN_TARGET_MS)}"],
    )
    return own_ms <= SCAN_TARGET_MS and not imported


def time_to_ready(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Start a server; return the milliseconds to its ``ready`` line and to its first response."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            ready = time.perf_counter()
            address = re.search(r"http://\S+", line)
            assert address is not None, f"{command}: no address in its first line {line!r}"
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{address[0]}/health/live", timeout=30) as response:
                response.read()
            responded = time.perf_counter()
        finally:
            process.terminate()
    return (ready - started) * 1000, (responded - started) * 1000


def measure_ready(runs: int) -> bool:
    """Print the table on time to ready; return whether the target is reached."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HANDLER_HOST_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="bench-discovery-") as directory:
        script = Path(directory, "bare.py")
        script.write_text(BARE)
        commands = {
            "bare aiohttp": [sys.executable, str(script)],
            "handler-host": [sys.executable, "-m", "handler_host", "serve", "--port", "0"],
        }
        samples_of: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for number in range(runs + 1):
            for name, command in commands.items():
                sample = time_to_ready(command, environment)
                if number:  # not the first round, which compiles bytecode and fills caches
                    samples_of[name].append(sample)
    medians = {
        name: [statistics.median(column) for column in zip(*samples, strict=True)]
        for name, samples in samples_of.items()
    }
    bare, host = medians["bare aiohttp"], medians["handler-host"]
    tables.print_table(
        f"time to ready: {runs} alternating runs, medians",
        ["server", "ready line ms", "ratio", "first response ms", "ratio"],
        [
            [name, line, tables.ratio(line, bare[0]), response, tables.ratio(response, bare[1])]
            for name, (line, response) in medians.items()
        ],
        [f"target: at most {READY_TARGET} of the bare server: {tables.verdict(host[1] / bare[1], READY_TARGET)}"],
    )
    return bool(host[1] <= READY_TARGET * bare[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="scans to take the median of (default: 20)")
    parser.add_argument("--starts", type=int, default=9, help="starts of each server (default: 9)")
    parser.add_argument("--only", choices=("scan", "ready"), help="print only this table")
    arguments = parser.parse_args()
    print("# Discovery", "", *tables.header(), sep="\n")
    reached = True
    if arguments.only != "ready":
        reached &= measure_scan(arguments.runs)
    if arguments.only != "scan":
        reached &= measure_ready(arguments.starts)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
