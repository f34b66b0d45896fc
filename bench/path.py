"""The way of one warm streamed chat through the host: calls, functions, modules: ``python -m bench.path``.

A profiler counts in the host's process, with one connection, what runs between the request and the end of its response:
calls of the host's own functions (a coroutine that resumes counts again), functions, their modules, and switches from
one package to another. The load of the machine changes them little. ``--root`` counts another checkout with its own
``.venv``, ``--package`` names the host's package there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import providers, servers, tables
from bench.dispatch import load
from bench.upstream import SECRETS

CHUNKS = 8
REQUESTS = 50
ROOT = Path(__file__).parents[1]
CONFIG = """\
[server]
port = 0
[defaults]
idle_after = "never"
[handlers.gpt_a]
base_url = "{url}/v1"
{more}
"""
TRANSLATED = "native = false"
PROFILED = """\
import collections, json, os, runpy, signal, sys
package, result = sys.argv[1:3]
root = "/" + package + "/"
calls, switches, last = collections.Counter(), 0, None

def profile(frame, event, argument):
    global switches, last
    name = frame.f_code.co_filename
    if event != "call" or root not in name:
        return
    module = name.rpartition(root)[2]
    calls[module + " " + frame.f_code.co_qualname] += 1
    part = module.partition("/")[0]
    switches += last is not None and part != last
    last = part

def start(*_):
    sys.setprofile(profile)

def stop(*_):
    sys.setprofile(None)
    with open(result + ".part", "w") as file:
        json.dump({"calls": calls, "switches": switches}, file)
    os.rename(result + ".part", result)

signal.signal(signal.SIGRTMIN, start)
signal.signal(signal.SIGRTMAX, stop)
sys.argv[:3] = [package]
runpy.run_module(package, run_name="__main__", alter_sys=True)
"""
"""The host with a profiler between two signals; the arguments are its package, the file for the result, its own."""


@contextlib.contextmanager
def profiled(root: Path, package: str, config: str, result: Path) -> Iterator[servers.Server]:
    """Run the host of a checkout with the profiler, which writes to ``result``."""
    path = result.with_name("host.toml")
    path.write_text(config)
    command = [str(root / ".venv/bin/python"), "-c", PROFILED, package, str(result), "serve", "--config", str(path)]
    own = {"HANDLER_HOST_ADMIN_TOKEN": servers.TOKEN, "PYTHONPATH": str(root)}
    own |= dict.fromkeys(("XDG_DATA_HOME", "XDG_STATE_HOME"), str(result.parent))
    with servers.running(command, own | SECRETS) as host:
        yield host


def count(root: Path, package: str, more: str) -> tuple[float, int, int, float]:
    """Return calls, functions, modules and switches of packages for one streamed chat."""
    body = {"model": "gpt_a", "messages": [{"role": "user", "content": providers.QUESTION}], "stream": True}
    with tempfile.TemporaryDirectory(prefix="bench-path-") as directory, servers.upstream(CHUNKS, 0.0) as provider:
        result = Path(directory, "calls.json")
        with profiled(root, package, CONFIG.format(url=provider.url, more=more), result) as host:
            url = f"{host.url}/v1/chat/completions"
            load(url, 1, REQUESTS, body, True)
            host.process.send_signal(signal.SIGRTMIN)
            load(url, 1, REQUESTS, body, True)
            host.process.send_signal(signal.SIGRTMAX)
            end = time.monotonic() + 10
            while not result.exists() and time.monotonic() < end:
                time.sleep(0.05)
        counted = json.loads(result.read_text())
    # Less than one in two requests: the memory's sampler, heartbeats, connections.
    calls = {name: number for name, number in counted["calls"].items() if number >= REQUESTS // 2}
    modules = {name.partition(" ")[0] for name in calls}
    return sum(calls.values()) / REQUESTS, len(calls), len(modules), counted["switches"] / REQUESTS


def main() -> None:
    """Count, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to count")
    parser.add_argument("--package", default="handler_host", help="the host's package in it")
    parser.add_argument("--only-default", action="store_true", help="count gpt_a as it is configured by default only")
    options = parser.parse_args()
    print(*tables.header(), sep="\n")
    cases = {"gpt_a": ""} if options.only_default else {"gpt_a, native": "", "gpt_a, translated": TRANSLATED}
    tables.print_table(
        f"The way of a streamed chat of {CHUNKS} chunks through the host",
        ["handler", "calls", "functions", "modules", "switches of packages"],
        [
            (name, f"{calls:.0f}", functions, modules, f"{switches:.0f}")
            for name, more in cases.items()
            for calls, functions, modules, switches in [count(options.root, options.package, more)]
        ],
    )


if __name__ == "__main__":
    main()
