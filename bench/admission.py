"""The cost of admitting one dispatch and releasing it, by dispatches in flight: ``python -m bench.admission``.

Without HTTP and without the call to the worker: the pure decision (``step``), and the
whole of it (``Supervisor.lease``) on a real warm worker. The figure is CPU time of this
process, so that other processes disturb it little.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from bench import servers, tables
from handler_host.config import CatalogConfig, Config, HandlerPolicy
from handler_host.lifecycle.events import LeaseReleased, LeaseRequested
from handler_host.lifecycle.state import HandlerState, WorkerPhase, WorkerState
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.lifecycle.transitions import step

IN_FLIGHT = (1, 32, 256, 1024)
GROWTH_TARGET = 1.15
"""Largest cost of a dispatch at 256 or 1,024 in flight, of one at 32 (the first one starts the idle timer, too)."""
BATCHES = 15
ECHO = '''\
"""Answers with its request."""
from handler_host.plugin import operation

class Handler:
    @operation
    async def echo(self, request: dict) -> dict:
        return request
'''


def decide(in_flight: int, pairs: int) -> float:
    """Return the CPU seconds of one admission and release by ``step``, the median of the batches."""
    policy = HandlerPolicy(max_concurrency=in_flight + 1)
    state = HandlerState(workers=(WorkerState(1, WorkerPhase.READY),), generation=1)
    for dispatch in range(1, in_flight):
        state, _ = step(state, LeaseRequested(dispatch), policy, 0.0)
    seconds = []
    for batch in range(BATCHES):
        first = in_flight + batch * pairs
        start = time.process_time()
        for dispatch in range(first, first + pairs):
            state, _ = step(state, LeaseRequested(dispatch), policy, 0.0)
            state, _ = step(state, LeaseReleased(dispatch), policy, 0.0)
        seconds.append((time.process_time() - start) / pairs)
    return statistics.median(seconds)


async def admit(supervisor: Supervisor, in_flight: int, pairs: int) -> float:
    """Return the CPU seconds of one lease on a warm worker, the median of the batches."""
    held = [supervisor.lease("echo", "echo") for _ in range(in_flight - 1)]
    for lease in held:
        await lease.__aenter__()
    seconds = []
    for _ in range(BATCHES):
        start = time.process_time()
        for _ in range(pairs):
            async with supervisor.lease("echo", "echo"):
                pass
        seconds.append((time.process_time() - start) / pairs)
        await asyncio.sleep(0)
    for lease in held:
        lease.release()
    return statistics.median(seconds)


async def measure(counts: tuple[int, ...], pairs: int) -> list[float]:
    """Return the cost of a lease for each number of dispatches in flight."""
    with tempfile.TemporaryDirectory(prefix="bench-admission-") as directory:
        servers.install(Path(directory), "echo", ECHO)
        config = Config(
            catalog=CatalogConfig(roots=(Path(directory),), include_sys_path=False),
            defaults=HandlerPolicy(max_concurrency=max(counts) + 1, preload=()),
        )
        supervisor = Supervisor(config, environ=os.environ)
        await supervisor.start()
        try:
            await supervisor.load("echo")
            return [await admit(supervisor, in_flight, pairs) for in_flight in counts]
        finally:
            await supervisor.close()


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2000, help="admissions and releases in each batch")
    options = parser.parse_args()
    print(*tables.header(), f"medians of {BATCHES} batches of {options.pairs}", sep="\n")
    rows = []
    layers = {
        "decision (step)": [decide(in_flight, options.pairs) for in_flight in IN_FLIGHT],
        "lease (supervisor)": asyncio.run(measure(IN_FLIGHT, options.pairs)),
    }
    missed = []
    for layer, seconds in layers.items():
        base = seconds[IN_FLIGHT.index(32)]
        for in_flight, cost in zip(IN_FLIGHT, seconds, strict=True):
            target = ""
            if in_flight >= 256:
                target = f"<= {GROWTH_TARGET}x: " + tables.verdict(cost / base, GROWTH_TARGET)
            if "MISSED" in target:
                missed.append(f"{layer} at {in_flight} in flight {target}")
            rows.append((layer, in_flight, f"{cost * 1e6:.2f}", tables.ratio(cost, base), target))
    tables.print_table(
        "Admission and release of one dispatch on a warm handler",
        ["layer", "in flight", "CPU us", "of 32 in flight", "target"],
        rows,
        ["In flight counts the dispatch itself. With 1 in flight, each also stops and starts the idle timer."],
    )
    if missed:
        print("\nmissed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
