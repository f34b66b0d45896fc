"""How long the first dispatch on a cold handler takes: ``python -m bench.activation``.

Against a plain ``import`` of the same SDK in a fresh interpreter, alternating. The
handler is loaded by the admin route, which answers when the worker is ready: that
is what a first dispatch waits for before its own work begins.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from bench import servers, tables
from bench.memory import CONFIG, SDKS

ALLOWED_MS = 50


def import_alone(module: str) -> float:
    """Return the seconds that a fresh interpreter takes to import ``module``, start and end included."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}, os; os._exit(0)"], check=True, capture_output=True)
    return time.perf_counter() - started


def activate(host: servers.Server, name: str) -> float:
    """Return the seconds from the request to a ready worker; the handler is cold before and after."""
    started = time.perf_counter()
    host.admin(f"/admin/handlers/{name}/load", "POST")
    taken = time.perf_counter() - started
    host.admin(f"/admin/handlers/{name}/unload", "POST")
    return taken


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    print(*tables.header("openai", "xllamacpp"), f"runs: {options.runs} of each, alternating; medians", sep="\n")
    rows = []
    warm_config = CONFIG.format(linger="10m", url="http://127.0.0.1:9")
    cold_config = CONFIG.format(linger="0s", url="http://127.0.0.1:9")
    with servers.host(warm_config) as warm, servers.host(cold_config) as cold:
        handlers = [
            handler["name"] for handler in warm.admin("/admin/handlers")["handlers"] if handler["state"] == "cold"
        ]
        for name in handlers:
            if name not in SDKS:
                continue
            alone, first, again = [], [], []
            activate(warm, name)
            for _ in range(options.runs):
                alone.append(import_alone(SDKS[name]) * 1000)
                while len(cold.pids) > 1:
                    time.sleep(0.01)
                first.append(activate(cold, name) * 1000)
                again.append(activate(warm, name) * 1000)
            base, cold_ms, warm_ms = map(statistics.median, (alone, first, again))
            rows.append(
                (
                    name,
                    SDKS[name],
                    f"{base:.0f}",
                    f"{cold_ms:.0f}",
                    f"{cold_ms - base:+.0f}",
                    tables.verdict(cold_ms, base + ALLOWED_MS),
                    f"{warm_ms:.0f}",
                    f"{warm_ms / base:.2f}",
                    tables.verdict(warm_ms, base + ALLOWED_MS),
                )
            )
    tables.print_table(
        "First dispatch on a cold handler, against the import of its SDK alone",
        [
            "handler",
            "SDK",
            "import alone ms",
            "no fork server yet ms",
            "more",
            f"<= import + {ALLOWED_MS} ms",
            "fork server there ms",
            "of import",
            f"<= import + {ALLOWED_MS} ms",
        ],
        rows,
        ["gpt_e loads a model beside its SDK; the import alone does not."],
    )


if __name__ == "__main__":
    main()
