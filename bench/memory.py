"""Measure the memory that handlers take and release: ``python -m bench.memory``.

PSS of all processes of the host, idle, with each plugin activated, and unloaded
again, against a bare aiohttp server and against the same SDKs imported in one
process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import NamedTuple

from bench import servers, tables

IDLE_TARGET = 1.10
RELEASED_TARGET = 0.98
SDKS = {
    "gpt_a": "openai",
    "gpt_b": "anthropic",
    "gpt_c": "google.generativeai",
    "gpt_d": "litellm",
    "gpt_e": "xllamacpp",
    "sheets": "gspread",
}
"""The package that each plugin imports when it is activated."""
CONFIG = """\
[workers]
linger = "{linger}"
[handlers.gpt_a]
base_url = "{url}/v1"
model = "gpt_e"
[handlers.gpt_b]
base_url = "{url}"
[handlers.gpt_c]
base_url = "{url}"
"""
IMPORTS = {"lean": "", "eager": '[defaults]\nlean = "off"\n'}
"""Configuration by the kind of imports; lean as far as ``make lean`` has compiled."""
STATES = ("all of these unloaded", "all active but gpt_e", "all active, gpt_e idle")
MODEL = "gpt_e"
IDLE_S = 6.0
"""Seconds until gpt_e has given back the pages of its weights."""
ONE_PROCESS = """\
import importlib, os, sys, warnings
from pathlib import Path
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
warnings.simplefilter("ignore")
from aiohttp import web
def pss():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
start = pss()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(start, pss())
"""


def megabytes(size: float) -> str:
    return f"{size / 2**20:.1f}"


def one_process(modules: list[str]) -> tuple[int, int]:
    """Return the PSS of one process with aiohttp.web, before and after importing ``modules``."""
    response = subprocess.run([sys.executable, "-c", ONE_PROCESS, *modules], check=True, capture_output=True, text=True)
    before, after = map(int, response.stdout.split())
    return before, after


def cycle(host: servers.Server, name: str) -> dict[str, float]:
    """Activate a handler, unload it, and return the PSS at each stage, in bytes."""
    before = servers.settle(host)
    receipt = host.admin(f"/admin/handlers/{name}/load", "POST")
    active = servers.settle(host)
    host.admin(f"/admin/handlers/{name}/unload", "POST")
    after = servers.settle(host)
    return {
        "before": before,
        "active": active,
        "after": after,
        "seconds": receipt["activate_seconds"],
        "released": (active - after) / (active - before),
    }


class Together(NamedTuple):
    """The PSS of a host with several handlers, in bytes."""

    unloaded: int
    """With the fork server, but without a worker."""
    sdks: int
    """With all handlers active but gpt_e."""
    everything: int
    """With all active, gpt_e idle for long enough to give back the pages of its weights."""


def measure(kind: str, runs: int) -> Together:
    """Print what each plugin takes with these imports; return what they take together."""
    config = CONFIG.format(linger="10m", url="http://127.0.0.1:9") + IMPORTS[kind]
    rows = []
    with servers.host(config) as host:
        handlers = usable(host)
        for task in ("load", "unload"):
            host.admin(f"/admin/handlers/{handlers[0]}/{task}", "POST")
        unloaded = servers.settle(host)
        for name in handlers:
            cycles = [cycle(host, name) for _ in range(runs)]
            middle = {key: statistics.median(run[key] for run in cycles) for key in cycles[0]}
            rows.append(
                (
                    name,
                    SDKS[name],
                    megabytes(middle["before"]),
                    megabytes(middle["active"]),
                    megabytes(middle["active"] - middle["before"]),
                    megabytes(middle["after"]),
                    f"{middle['released'] * 100:.1f} %",
                    tables.verdict(middle["released"], RELEASED_TARGET, at_least=True),
                    f"{middle['seconds'] * 1000:.0f}",
                )
            )
        for name in handlers:
            if name != MODEL:
                host.admin(f"/admin/handlers/{name}/load", "POST")
        sdks = servers.settle(host)
        if MODEL in handlers:
            host.admin(f"/admin/handlers/{MODEL}/load", "POST")
            time.sleep(IDLE_S)
        everything = servers.settle(host)
        if kind == "lean" and "imported in full" in host.log():
            print("some packages are not lean; run make lean")
    tables.print_table(
        f"Each plugin activated and unloaded, {kind} imports (the fork server stays)",
        ["handler", "SDK", "before MB", "active MB", "took MB", "after MB", "released", ">= 98 %", "activation ms"],
        rows,
        [f"host and fork server without a worker: {megabytes(unloaded)} MB"],
    )
    return Together(unloaded, sdks, everything)


def usable(host: servers.Server) -> list[str]:
    """Return the names of the handlers with an SDK that can be activated."""
    return [
        handler["name"]
        for handler in host.admin("/admin/handlers")["handlers"]
        if handler["name"] in SDKS and handler["state"] == "cold"
    ]


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(*tables.header(), f"runs: {options.runs}; medians; MB are 2**20 bytes of PSS", sep="\n")

    bare, idle = [], []
    for _ in range(options.runs):
        with servers.bare() as server:
            bare.append(servers.settle(server))
        with servers.host() as server:
            idle.append(servers.settle(server))
    bare_pss, idle_pss = statistics.median(bare), statistics.median(idle)
    tables.print_table(
        "Idle host against a bare aiohttp server",
        ["server", "processes", "PSS MB", "of bare", "target"],
        [
            ("bare aiohttp", 1, megabytes(bare_pss), "1.00", ""),
            (
                "host, all handlers cold",
                1,
                megabytes(idle_pss),
                f"{idle_pss / bare_pss:.2f}",
                f"<= {IDLE_TARGET}: {tables.verdict(idle_pss / bare_pss, IDLE_TARGET)}",
            ),
        ],
    )

    together = {kind: measure(kind, options.runs) for kind in IMPORTS}
    with servers.host(CONFIG.format(linger="1s", url="http://127.0.0.1:9")) as host:
        handlers = usable(host)
        before = servers.settle(host)
        host.admin(f"/admin/handlers/{handlers[0]}/load", "POST")
        active = servers.settle(host)
        host.admin(f"/admin/handlers/{handlers[0]}/unload", "POST")
        while len(host.pids) > 1:
            pass
        after = servers.settle(host)
    modules = [SDKS[name] for name in handlers if find_spec(SDKS[name].partition(".")[0]) is not None]
    eager = [one_process(modules) for _ in range(options.runs)]
    eager_pss = statistics.median(after for _, after in eager)
    tables.print_table(
        "All handlers together",
        ["state", "PSS MB", "of one process"],
        [
            (f"one process, aiohttp.web and {', '.join(modules)} imported", megabytes(eager_pss), "1.00"),
            *(
                (f"host, {kind} imports, {state}", megabytes(size), f"{size / eager_pss:.2f}")
                for kind, sizes in together.items()
                for state, size in zip(STATES, sizes, strict=True)
            ),
            (f"host from its start ({handlers[0]} not yet active)", megabytes(before), f"{before / eager_pss:.2f}"),
            (f"host with {handlers[0]} active", megabytes(active), f"{active / eager_pss:.2f}"),
            ("host after its unload, fork server ended", megabytes(after), f"{after / eager_pss:.2f}"),
        ],
        [
            "The one process only imports. The worker of gpt_e holds a loaded model, the others an open client.",
            f"After the unload: {megabytes(after - before)} MB more than before the first activation.",
        ],
    )
    print(json.dumps({"idle of bare": idle_pss / bare_pss, "handlers": handlers}))


if __name__ == "__main__":
    main()
