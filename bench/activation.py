"""How long the first dispatch on a cold handler takes: ``python -m bench.activation``.

Against a plain ``import`` of the same SDK in a fresh interpreter, alternating.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import urllib.error

from bench import servers, tables
from bench.memory import CONFIG, SDKS

ALLOWED_MS = 50


LOAD_MODEL = """\
from gpt_e import find_model
from xllamacpp import CommonParams, Server
parameters = CommonParams()
parameters.model.path = str(find_model(None))
parameters.n_ctx, parameters.n_parallel, parameters.cache_ram_mib = 2048, 1, 0
parameters.n_ubatch = 128
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
parameters.fit_params = parameters.warmup = parameters.ui = False
parameters.offline = True
server = Server(parameters)
"""
"""What gpt_e does at its activation, without any host."""


def alone(name: str) -> float:
    """Return the seconds of a fresh interpreter, start and end included, for an SDK's import (gpt_e: and its model)."""
    work = LOAD_MODEL if name == "gpt_e" else f"import {SDKS[name]}"
    started = time.perf_counter()
    # As in gpt_d: without it LiteLLM goes to the network, and waits for it.
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [sys.executable, "-c", f"{work}\nimport os; os._exit(0)"]
    subprocess.run(command, check=True, capture_output=True, env=environ)
    return time.perf_counter() - started


def activate(host: servers.Server, name: str) -> float:
    """Return the seconds of a first dispatch; the handler is cold before and after.

    The dispatch is a chat without messages: the handler itself refuses it, once it
    is active, so that nothing of a provider's or a model's own time is in the figure.
    """
    started = time.perf_counter()
    try:
        host.post(f"/v1/handlers/{name}/chat", {"messages": []})
    except urllib.error.HTTPError as error:
        if error.code != 400:
            raise SystemExit(f"{name} could not be activated: {error.read().decode()}") from error
    taken = time.perf_counter() - started
    host.admin(f"/admin/handlers/{name}/unload", "POST")
    return taken


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    print(
        *tables.header("openai", "anthropic", "google-generativeai", "litellm", "xllamacpp"),
        f"runs: {options.runs} of each, alternating; medians",
        sep="\n",
    )
    rows = []
    warm_config = CONFIG.format(linger="10m", url="http://127.0.0.1:9")
    cold_config = CONFIG.format(linger="0s", url="http://127.0.0.1:9")
    with servers.host(warm_config) as warm, servers.host(cold_config) as cold:
        # sheets imports its SDK with the first row for Google, not with its activation.
        handlers = [
            handler["name"]
            for handler in warm.admin("/admin/handlers")["handlers"]
            if handler["state"] == "cold" and "chat" in (one["name"] for one in handler["operations"] or ())
        ]
        for name in handlers:
            if name not in SDKS:
                continue
            plain, first, again = [], [], []
            activate(warm, name)
            for _ in range(options.runs):
                plain.append(alone(name) * 1000)
                while len(cold.pids) > 1:
                    time.sleep(0.01)
                first.append(activate(cold, name) * 1000)
                again.append(activate(warm, name) * 1000)
            base, cold_ms, warm_ms = map(statistics.median, (plain, first, again))
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
        ["gpt_e alone: import and loading the model.", "A fork server goes after `workers.linger` without a worker."],
    )


if __name__ == "__main__":
    main()
