"""Measure what the host adds to a call of a provider: ``python -m bench.upstream``.

Chat handlers through the host (HTTP, worker, their SDK) against the same SDK called
by an application directly, in front of the same provider on loopback, 16 calls at a
time, in alternating runs. Handlers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from bench import providers, servers, tables
from bench.dispatch import load
from bench.sdk_alone import SDKS

TARGET = 0.9
CONCURRENCY = 16
NAMES = {"gpt_a": "openai", "gpt_b": "anthropic", "gpt_c": "google-generativeai", "gpt_d": "litellm"}
CONFIG = """\
[defaults]
max_queue = 512
idle_after = "never"
[handlers.gpt_a]
base_url = "{url}/v1"
[handlers.gpt_b]
base_url = "{url}"
[handlers.gpt_c]
base_url = "{url}"
[handlers.gpt_d]
model = "openai/m"
api_base = {{ openai = "{url}/v1" }}
"""
SECRETS = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), "none")


def alone(handler: str, url: str, calls: int, streamed: bool) -> dict[str, float]:
    """Return the figures of the SDK without the host."""
    command = [sys.executable, "-m", "bench.sdk_alone", handler, url, "--calls", str(calls)]
    command += ["--concurrency", str(CONCURRENCY), *(["--stream"] if streamed else [])]
    response = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if response.returncode != 0:
        raise SystemExit(f"the SDK of {handler} failed: {response.stderr.strip().splitlines()[-1]}")
    figures: dict[str, float] = json.loads(response.stdout)
    return figures


def through(host: servers.Server, handler: str, calls: int, streamed: bool) -> dict[str, float]:
    """Return the figures of the handler in the host."""
    body = {"model": handler, "messages": [{"role": "user", "content": providers.QUESTION}], "stream": streamed}
    url = f"{host.url}/v1/chat/completions"
    load(url, CONCURRENCY, 2 * CONCURRENCY, body, streamed)
    before = host.cpu()
    figures = load(url, CONCURRENCY, calls, body, streamed)
    figures["cpu"] = (host.cpu() - before) / calls
    return figures


def measure(handler: str, which: str, calls: int, runs: int) -> list[tuple[object, ...]]:
    """Return the rows of one handler."""
    rows: list[tuple[object, ...]] = []
    with providers.provider(which) as url, servers.host(CONFIG.format(url=url), SECRETS) as host:
        for streamed in (False, True):
            samples: dict[str, list[dict[str, float]]] = {"alone": [], "host": []}
            for _ in range(runs):
                samples["alone"].append(alone(handler, url, calls, streamed))
                samples["host"].append(through(host, handler, calls, streamed))
            middle = {
                name: {key: statistics.median(run[key] for run in figures) for key in ("per_second", "cpu")}
                for name, figures in samples.items()
            }
            share = statistics.median(
                ours["per_second"] / theirs["per_second"]
                for ours, theirs in zip(samples["host"], samples["alone"], strict=True)
            )
            cpu = middle["host"]["cpu"] / middle["alone"]["cpu"]
            for name in ("alone", "host"):
                ours = name == "host"
                rows.append(
                    (
                        handler,
                        NAMES[handler],
                        which,
                        f"SSE, {providers.CHUNKS} chunks" if streamed else "JSON",
                        "through the host" if ours else "SDK alone",
                        f"{middle[name]['per_second']:.0f}",
                        f"{share:.2f}" if ours else "1.00",
                        f"{middle[name]['cpu'] * 1e6:.0f}",
                        f"{cpu:.2f}" if ours else "1.00",
                        f">= {TARGET}: {tables.verdict(share, TARGET, at_least=True)}" if ours else "",
                    )
                )
    return rows


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--calls", type=int, default=1000, help="calls in each run")
    parser.add_argument("--handler", action="append", choices=SDKS, help="measure this one only; may be repeated")
    parser.add_argument("--provider", choices=("aimock", "own"), default=None, help="default: aimock, if there is npm")
    options = parser.parse_args()
    with servers.host() as host:
        states = {handler["name"]: handler["state"] for handler in host.admin("/admin/handlers")["handlers"]}
    wanted = [name for name in options.handler or SDKS if states.get(name) == "cold"]
    best = options.provider or providers.best()
    print(*tables.header(*(NAMES[name] for name in wanted)), sep="\n")
    print(f"runs: {options.runs} of each, alternating, of {options.calls} calls; medians; provider: {best}")
    rows: list[tuple[object, ...]] = []
    for name in wanted:
        # The stock SDK of gpt_c streams a JSON array, which aimock does not send.
        rows += measure(name, "own" if name == "gpt_c" else best, options.calls, options.runs)
    tables.print_table(
        f"Chat handlers through the host against their SDK alone, {CONCURRENCY} at a time",
        ["handler", "SDK", "provider", "response", "caller", "calls/s", "of alone", "CPU us", "CPU of alone", "target"],
        rows,
        [
            "CPU for one call: of the application's process, or of all processes of the host. Client, provider",
            "and host share the machine: on two cores the host's two processes compete with them.",
            "gpt_c's SDK alone runs in threads, as it has no asynchronous calls over HTTP.",
        ],
    )
    absent = [name for name in SDKS if name not in states]
    if absent:
        print(f"\nnot installed: {', '.join(absent)}")
    if any("MISSED" in str(row[-1]) for row in rows):
        print("\nmissed: " + "; ".join(f"{row[0]} {row[3]}: {row[6]}" for row in rows if "MISSED" in str(row[-1])))


if __name__ == "__main__":
    main()
