"""Run the host under a hard memory limit: ``python -m bench.limit``.

In a control group of 512 to 128 MB, clients dispatch to all handlers in rotation, with
concurrent streams, so that handlers are activated and evicted all the time. A host
without lean imports and one process that imports everything at its start get the same
limits and load.
SDKs use a scripted provider on loopback, outside the group. Without the right to
create control groups, the host's configuration sets the limit, and PSS is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sysconfig
import tempfile
import threading
import time
import urllib.error
from dataclasses import dataclass, field
from pathlib import Path

from bench import cgroups, servers, tables, traffic
from bench.memory import megabytes

MB = 1024**2
TARGET_LIMITS_MB = (512, 384, 256, 192, 128)
"""Limits at which no process may be killed and no dispatch may fail."""
HOST, EAGER_HOST, ONE_PROCESS = KINDS = ("host", "host, eager imports", "one process")
EAGER = 'isolation = "inline"\nidle_after = "never"\nactivate_timeout = "5m"'
"""All handlers in the server's own process, as in an application that imports its SDKs at the top."""


@dataclass
class Watch:
    """Peak memory of the processes and of the group while the load runs, in bytes."""

    server: servers.Server
    group: cgroups.Group | None
    pss: int = 0
    unreclaimable: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            self.pss = max(self.pss, self.server.pss())
            if self.group is not None:
                self.unreclaimable = max(self.unreclaimable, self.group.unreclaimable())


@dataclass
class Result:
    """Outcome of one run; sizes are in bytes."""

    tally: traffic.Tally
    kills: int
    steps: dict[str, int]
    pss: int
    unreclaimable: int
    charged: int
    ended: str


def forget_models() -> None:
    """Drop cached model files: the kernel charges a cached page only to the group that read it first."""
    for path in Path(sysconfig.get_path("purelib")).rglob("*.gguf"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(kind: str, limit: int, names: list[str], upstream: str, options: argparse.Namespace) -> Result:
    """Put load on the host (or the one process) under a limit in megabytes."""
    with tempfile.TemporaryDirectory(prefix="bench-limit-") as directory, cgroups.limited(limit * MB) as group:
        traffic.make_data_dir(directory)
        forget_models()
        if kind != ONE_PROCESS:
            setting = "auto" if group is not None else f"{limit}MB"
            defaults = f'idle_after = "{options.idle_after}"' + ('\nlean = "off"' if kind == EAGER_HOST else "")
            text = traffic.config(directory, upstream, limit=setting, defaults=defaults)
        else:
            # No budget: one process cannot release memory.
            text = traffic.config(directory, upstream, limit="1TB", defaults=EAGER)
        prefix = group.prefix if group is not None else ()
        try:
            with servers.host(text, traffic.KEYS, prefix) as server, Watch(server, group) as watch:
                ended = _load_all(server, names, options.seconds) if kind == ONE_PROCESS else ""
                tally = traffic.Tally()
                if not ended:
                    tally = asyncio.run(
                        traffic.rotate(
                            server.url,
                            names,
                            options.clients,
                            options.seconds,
                            lambda: server.process.poll() is None,
                            options.pause,
                        )
                    )
                if server.process.poll() is not None:
                    ended = ended or f"under load, after {tally.dispatches} dispatches"
                steps = traffic.steps(server.log())
        except RuntimeError as error:
            return Result(traffic.Tally(), group.kills() if group else 0, {}, 0, 0, 0, f"at its start: {error}"[:60])
        return Result(
            tally,
            group.kills() if group is not None else int(watch.pss > limit * MB),
            steps,
            watch.pss,
            watch.unreclaimable,
            group.peak() if group is not None else 0,
            ended,
        )


def _load_all(server: servers.Server, names: list[str], seconds: float) -> str:
    """Import everything before the first request; return the place where the process ended, or an empty text.

    With little memory and no swap an import may never end: the kernel reads the same files many times.
    """
    timeout_s = max(seconds, servers.TIMEOUT_S)
    until = time.monotonic() + timeout_s
    for name in names:
        try:
            server.admin(f"/admin/handlers/{name}/load", "POST")
        except urllib.error.HTTPError as error:
            return f"while {name} was imported: {error.read().decode()}"[:60]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if server.process.poll() is not None or _is_dying(server):
                return f"while {name} was imported"
            return f"{name} was not imported within {servers.TIMEOUT_S:g} s"
        if time.monotonic() > until:
            return f"{name} was imported after {timeout_s:g} s only"
    return ""


def _is_dying(server: servers.Server) -> bool:
    try:
        server.process.wait(10)
    except subprocess.TimeoutExpired:
        return False
    return True


def _minutes(options: argparse.Namespace, limits: int) -> float:
    """Return the minutes of all runs if none ends early, with about 20 s of starts and imports for each."""
    seconds: float = options.seconds
    return limits * len(options.kinds or KINDS) * (seconds + 20) / 60 + 1


def _milliseconds(values: list[float], share: float) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000:.0f}"


def row(kind: str, limit: int, result: Result) -> tuple[object, ...]:
    """Return one row of the table."""
    outcomes = result.tally.outcomes
    refused, complete = outcomes["never fits"], outcomes["ok"]
    failed = outcomes.total() - complete - refused
    verdict = ""
    if kind == HOST and limit in TARGET_LIMITS_MB:
        held = not result.kills and not failed and not result.ended and result.tally.accounted
        verdict = "met" if held and not refused else ("met for what fits" if held else "MISSED")
    return (
        f"{limit}",
        kind,
        outcomes.total(),
        failed,
        refused,
        result.kills,
        result.steps.get("activated", 0),
        result.steps.get("evicted", 0),
        result.steps.get("idle", 0),
        megabytes(result.pss),
        megabytes(result.unreclaimable),
        megabytes(result.charged),
        f"{_milliseconds(result.tally.warm, 0.5)} / {_milliseconds(result.tally.warm, 0.99)}",
        f"{_milliseconds(result.tally.cold, 0.5)} / {_milliseconds(result.tally.cold, 0.99)}",
        result.ended or "alive",
        verdict,
    )


def summary(names: list[str], result: Result) -> str:
    """Return in one sentence which handlers responded, and why the others did not."""
    tally = result.tally
    responses = ", ".join(f"{name} {tally.completed[name]}" for name in names if tally.completed[name])
    parts = [f"responses of {responses}" if responses else "no response"]
    parts += [f"refused: {reason}" for reason in tally.unfit.values()]
    silent = [name for name in names if not tally.completed[name] and name not in tally.unfit]
    if silent:
        parts.append(f"no response of {', '.join(silent)}")
    if result.ended:
        parts.append(f"ended {result.ended}")
    return "; ".join(parts)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of load for each run")
    parser.add_argument("--limits", default="512,384,256,192,128", help="megabytes, separated by commas")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two dispatches of a client")
    parser.add_argument("--idle-after", default="2s", help="the handlers' idle time: short, so that they come and go")
    parser.add_argument("--kind", dest="kinds", action="append", choices=KINDS, help="only this one, or these")
    options = parser.parse_args()
    limits = [int(limit) for limit in options.limits.split(",")]
    with cgroups.limited(512 * MB) as group:
        how = f"control group {group.version}" if group is not None else None
    print(
        *tables.header("openai", "anthropic", "google-generativeai", "litellm", "xllamacpp", "gspread"),
        f"runs: 1 of {options.seconds:g} s for each line, {options.clients} clients, idle_after {options.idle_after}",
        f"limit: hard, by a {how}"
        if how is not None
        else "limit: NO right to create control groups: the configuration sets it, and PSS is compared ('kills' is 1 "
        "for PSS over the limit)",
        f"takes at most {_minutes(options, len(limits)):.0f} minutes, less if a process is killed early",
        sep="\n",
        flush=True,
    )
    rows, failures = [], []
    with servers.upstream(chunks=20, pause=0.02) as upstream:
        with tempfile.TemporaryDirectory(prefix="bench-limit-") as directory:
            traffic.make_data_dir(directory)
            with servers.host(traffic.config(directory, upstream.url), traffic.KEYS) as probe:
                names, excluded = traffic.handlers_of(probe)
        print("handlers:", ", ".join(names), *excluded, sep="\n" if excluded else " ", flush=True)
        for limit in limits:
            for kind in options.kinds or KINDS:
                result = run(kind, limit, names, upstream.url, options)
                rows.append(row(kind, limit, result))
                print(f"{limit} MB, {kind}: {summary(names, result)}", flush=True)
                # One failure of each kind: only the numbers differ. The summary names handlers that never fit.
                others = [failure for failure in result.tally.failures if not failure.startswith("never fits")]
                kinds = {failure.partition(",")[0]: failure for failure in others}
                failures += [f"{limit} MB, {kind}: {failure}" for failure in kinds.values()]
    tables.print_table(
        "All handlers in rotation under a hard limit",
        [
            "limit MB",
            "server",
            "dispatches",
            "failed",
            "do not fit",
            "kills",
            "activated",
            "evicted",
            "idle",
            "peak PSS MB",
            "peak unreclaimable MB",
            "peak charged MB",
            "warm ms, median / p99",
            "cold ms, median / p99",
            "ended",
            "target",
        ],
        rows,
        [
            "failed: all but complete responses and refusals of handlers that can never fit; ms to the first bytes",
            "unreclaimable: without cached files; charged: with cached files, up to the limit",
            *failures[:20],
        ],
    )


if __name__ == "__main__":
    main()
