"""Measure a call and an event of a stream, native and translated, against the SDK alone: ``python -m bench.native``.

Clients of each provider's protocol call its handler through the host, once as the bytes come (native operations), once
by the chat contract (``native = false``); an application calls the same SDK directly. The provider is on loopback, 16
calls at a time, in alternating runs. The cost of an event is the slope between streams of two lengths. Each handler
takes about two minutes on a quiet machine; its table is printed at once, and a line on standard error after each run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from bench import providers, servers, tables
from bench.dispatch import load
from bench.upstream import CONCURRENCY, NAMES, SECRETS, alone

LENGTHS = (20, 220)
"""Chunks of a short and of a long stream."""
HANDLERS = ("gpt_a", "gpt_b", "gpt_c")
CALLERS = ("SDK alone", "native", "translated")
CONFIG = """\
[defaults]
max_queue = 512
idle_after = "never"
"""
HANDLER = """\
[handlers.{handler}]
base_url = "{url}"
[handlers.{handler}_translated]
plugin = "{handler}"
base_url = "{url}"
native = false
"""
MESSAGES = [{"role": "user", "content": providers.QUESTION}]


def request_of(plugin: str, handler: str, streamed: bool) -> tuple[str, dict[str, object]]:
    """Return path and body of a call in the protocol of the plugin's provider."""
    if plugin == "gpt_c":
        method = "streamGenerateContent?alt=sse" if streamed else "generateContent"
        body: dict[str, object] = {"contents": [{"role": "user", "parts": [{"text": providers.QUESTION}]}]}
        return f"/v1beta/models/{handler}:{method}", body
    body = {"model": handler, "messages": MESSAGES, "stream": streamed}
    return ("/v1/messages", {**body, "max_tokens": 100}) if plugin == "gpt_b" else ("/v1/chat/completions", body)


def cpu_of(host: servers.Server, url: str, plugin: str, caller: str, calls: int, streamed: bool) -> float:
    """Return the seconds of processor time for one call: of the application, or of all processes of the host."""
    if caller == "SDK alone":
        # The SDK needs up to 80 times as long for an event, and its process reads a precise clock, not ticks of 10 ms.
        return alone(plugin, url, max(CONCURRENCY, calls // 5), streamed)["cpu"]
    path, body = request_of(plugin, plugin if caller == "native" else f"{plugin}_translated", streamed)
    load(host.url + path, CONCURRENCY, 2 * CONCURRENCY, body, streamed)
    before = host.cpu()
    load(host.url + path, CONCURRENCY, calls, body, streamed)
    return (host.cpu() - before) / calls


def measure(plugin: str, calls: int, runs: int) -> dict[str, tuple[float, float]]:
    """Return the microseconds of a call and of an event for each caller."""
    whole: dict[str, list[float]] = {caller: [] for caller in CALLERS}
    streams: dict[int, dict[str, list[float]]] = {length: {caller: [] for caller in CALLERS} for length in LENGTHS}
    for length in LENGTHS:
        with servers.upstream(length, 0.0) as provider:
            base_url = f"{provider.url}/v1" if plugin == "gpt_a" else provider.url
            config = CONFIG + HANDLER.format(handler=plugin, url=base_url)
            with servers.host(config, SECRETS) as host:
                for run in range(runs):
                    for caller in CALLERS:
                        started = time.perf_counter()
                        if length == LENGTHS[0]:
                            whole[caller].append(cpu_of(host, provider.url, plugin, caller, calls, False))
                        streams[length][caller].append(cpu_of(host, provider.url, plugin, caller, calls, True))
                        where = f"{plugin}, {length} chunks, run {run + 1} of {runs}, {caller}"
                        print(f"{where}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    short, long = (streams[length] for length in LENGTHS)
    return {
        caller: (
            statistics.median(whole[caller]) * 1e6,
            (statistics.median(long[caller]) - statistics.median(short[caller])) / (LENGTHS[1] - LENGTHS[0]) * 1e6,
        )
        for caller in CALLERS
    }


def print_handler(plugin: str, figures: dict[str, tuple[float, float]]) -> None:
    """Print the table of one handler."""
    call_alone, event_alone = figures["SDK alone"]
    tables.print_table(
        f"Processor time of {plugin} ({NAMES[plugin]}), {CONCURRENCY} calls at a time",
        ["caller", "call us", "of alone", "event us", "of alone"],
        [
            (caller, f"{call:.0f}", tables.ratio(call, call_alone), f"{event:.1f}", tables.ratio(event, event_alone))
            for caller, (call, event) in figures.items()
        ],
    )
    sys.stdout.flush()


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--calls", type=int, default=100, help="calls in each run; a fifth of them for the SDK alone")
    parser.add_argument("--handler", action="append", choices=HANDLERS, help="measure this one only; may be repeated")
    options = parser.parse_args()
    wanted = options.handler or HANDLERS
    print(*tables.header(*(NAMES[name] for name in wanted)), sep="\n")
    print(f"runs: {options.runs} of each, alternating, of {options.calls} calls; medians")
    print("CPU of the application's process, or of all processes of the host. The provider sends without pauses,")
    print("so that several events come in one read. gpt_c's SDK alone runs in threads, as it has no asynchronous")
    print("calls over HTTP.", flush=True)
    for plugin in wanted:
        print_handler(plugin, measure(plugin, options.calls, options.runs))


if __name__ == "__main__":
    main()
