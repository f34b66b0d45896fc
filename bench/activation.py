"""Measure the first dispatch on a cold handler: ``python -m bench.activation``.

Against a plain ``import`` of the same SDK in a fresh interpreter, alternating. Ratios of CPU time hold on a busy
machine too, ratios of seconds only on a quiet one.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
import urllib.error
from pathlib import Path
from typing import NamedTuple

from bench import servers, tables
from bench.memory import CONFIG, SDKS

ALLOWED_MS = 50
LEAN = ("gpt_a", "gpt_b", "gpt_c", "gpt_d")
"""Handlers whose manifest has ``[lean]``."""
LEAN_TARGET = 0.35
"""CPU time of an activation with lean imports, of the SDK's plain import."""


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
"""The work of gpt_e at its activation, without a host."""


class PlainImport(NamedTuple):
    """The seconds and the CPU time of an import in a fresh interpreter."""

    seconds: float
    cpu: float


def alone(name: str) -> PlainImport:
    """Measure a fresh interpreter that imports an SDK and ends; gpt_e loads its model too."""
    work = LOAD_MODEL if name == "gpt_e" else f"import {SDKS[name]}"
    started = time.perf_counter()
    # As in gpt_d: without it LiteLLM fetches a price list from the network.
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [sys.executable, "-c", f"{work}\nimport os; os._exit(0)"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return PlainImport(time.perf_counter() - started, cpu)


def activate(host: servers.Server, name: str) -> float:
    """Return the seconds of a first dispatch; the handler is cold before and after.

    The dispatch is a chat without messages. The active handler refuses it, so the
    figure has no time of a provider or a model in it.
    """
    started = time.perf_counter()
    try:
        host.post(f"/v1/handlers/{name}/chat", {"messages": []})
    except urllib.error.HTTPError as error:
        if error.code != 400:
            raise SystemExit(f"{name} could not be activated: {error.read().decode()}") from error
    seconds = time.perf_counter() - started
    host.admin(f"/admin/handlers/{name}/unload", "POST")
    return seconds


class Activation(NamedTuple):
    """The cost of one activation, the worker's memory just after it."""

    seconds: float
    cpu: float
    uss: float
    pss: float


def measured_activation(host: servers.Server, name: str) -> Activation:
    """Load a cold handler, measure its worker, and unload it; sizes in bytes."""
    started = time.perf_counter()
    host.admin(f"/admin/handlers/{name}/load", "POST")
    seconds = time.perf_counter() - started
    (pid,) = (handler["pid"] for handler in host.admin("/admin/handlers")["handlers"] if handler["name"] == name)
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    sizes = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    }
    host.admin(f"/admin/handlers/{name}/unload", "POST")
    uss = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return Activation(seconds, sum(map(int, times)) / os.sysconf("SC_CLK_TCK"), uss, sizes["Pss"])


def compare_imports(names: list[str], runs: int) -> None:
    """Print what lean imports change, for the handlers whose manifest lists packages (compile with ``make lean``)."""
    rows = []
    config = CONFIG.format(linger="10m", url="http://127.0.0.1:9")
    with servers.host(config) as lean, servers.host(f'{config}[defaults]\nlean = "off"\n') as eager:
        for name in names:
            for host in (eager, lean):
                measured_activation(host, name)  # the fork server and the page cache are warm from here on
            plain, without, hooked = [], [], []
            for _ in range(runs):
                plain.append(alone(name))
                without.append(measured_activation(eager, name))
                hooked.append(measured_activation(lean, name))
            base = PlainImport(*(statistics.median(run[key] for run in plain) for key in range(2)))
            before, after = (
                Activation(*(statistics.median(run[key] for run in part) for key in range(4)))
                for part in (without, hooked)
            )
            rows.append(
                (
                    name,
                    SDKS[name],
                    f"{before.cpu:.2f} -> {after.cpu:.2f}",
                    f"{before.uss / 2**20:.1f} -> {after.uss / 2**20:.1f}",
                    f"{before.pss / 2**20:.1f} -> {after.pss / 2**20:.1f}",
                    f"{before.cpu / base.cpu:.2f} -> {after.cpu / base.cpu:.2f}",
                    tables.verdict(after.cpu / base.cpu, LEAN_TARGET),
                    f"{before.seconds / base.seconds:.2f} -> {after.seconds / base.seconds:.2f}",
                )
            )
        if "imported in full" in lean.log():
            print("some packages are not lean; run make lean")
    tables.print_table(
        "Activation, all imports eager -> lean imports (a fork server is there)",
        [
            "handler",
            "SDK",
            "CPU s",
            "USS MB",
            "PSS MB",
            "CPU of the SDK's import",
            f"<= {LEAN_TARGET}",
            "seconds of it",
        ],
        rows,
        ["CPU of the worker from its fork until it is ready; memory just after that."],
    )


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--lean-only", action="store_true", help="only the comparison of lean and eager imports")
    options = parser.parse_args()
    if options.lean_only:
        compare_imports(list(LEAN), options.runs)
        return
    print(
        *tables.header("openai", "anthropic", "google-generativeai", "litellm", "xllamacpp"),
        f"runs: {options.runs} of each, alternating; medians",
        sep="\n",
    )
    rows = []
    warm_config = CONFIG.format(linger="10m", url="http://127.0.0.1:9")
    cold_config = CONFIG.format(linger="0s", url="http://127.0.0.1:9")
    with servers.host(warm_config) as warm, servers.host(cold_config) as cold:
        # Not sheets: it imports its SDK with the first row for Google, not with its activation.
        handlers = [
            handler["name"]
            for handler in warm.admin("/admin/handlers")["handlers"]
            if handler["state"] == "cold" and "chat" in (operation["name"] for operation in handler["operations"] or ())
        ]
        for name in handlers:
            if name not in SDKS:
                continue
            imports, first_ms, again_ms = [], [], []
            activate(warm, name)
            for _ in range(options.runs):
                imports.append(alone(name).seconds * 1000)
                while len(cold.pids) > 1:
                    time.sleep(0.01)
                first_ms.append(activate(cold, name) * 1000)
                again_ms.append(activate(warm, name) * 1000)
            base, cold_ms, warm_ms = map(statistics.median, (imports, first_ms, again_ms))
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
            "fork server ready ms",
            "of import",
            f"<= import + {ALLOWED_MS} ms",
        ],
        rows,
        ["gpt_e alone: import and loading the model.", "A fork server ends after `workers.linger` without a worker."],
    )
    compare_imports([name for name in handlers if name in LEAN], options.runs)


if __name__ == "__main__":
    main()
