"""Measure the memory that handlers take and release: ``python -m bench.memory``.

PSS of all processes of the host, idle, with each plugin activated, and unloaded
again, against a bare aiohttp server and against the same SDKs imported in one
process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import urllib.error
from importlib.util import find_spec

from bench import servers, tables

IDLE_TARGET = 1.15
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


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--eager", action="store_true", help="without lean imports")
    options = parser.parse_args()
    imports = '[defaults]\nlean = "off"\n' if options.eager else ""
    print("imports: all eager" if options.eager else "imports: lean (as far as `make lean` has compiled)")
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

    rows = []
    with servers.host(CONFIG.format(linger="10m", url="http://127.0.0.1:9") + imports) as host:
        handlers = [
            handler["name"]
            for handler in host.admin("/admin/handlers")["handlers"]
            if handler["name"] in SDKS and handler["state"] == "cold"
        ]
        host.admin(f"/admin/handlers/{handlers[0]}/load", "POST")
        host.admin(f"/admin/handlers/{handlers[0]}/unload", "POST")
        with_fork_server = servers.settle(host)
        for name in handlers:
            runs = [cycle(host, name) for _ in range(options.runs)]
            middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
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
            with contextlib.suppress(urllib.error.HTTPError):
                host.admin(f"/admin/handlers/{name}/load", "POST")
        together = servers.settle(host)
    tables.print_table(
        "Each plugin activated and unloaded (the fork server stays)",
        ["handler", "SDK", "before MB", "active MB", "took MB", "after MB", "released", ">= 98 %", "activation ms"],
        rows,
        [f"host and fork server without a worker: {megabytes(with_fork_server)} MB"],
    )

    with servers.host(CONFIG.format(linger="1s", url="http://127.0.0.1:9") + imports) as host:
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
            ("host, all of these active", megabytes(together), f"{together / eager_pss:.2f}"),
            ("host, all of these unloaded", megabytes(with_fork_server), f"{with_fork_server / eager_pss:.2f}"),
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
