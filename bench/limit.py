"""The host under a hard limit of memory: ``python -m bench.limit``.

In a control group of 512, 384, 256 and 192 MB: clients ask all handlers in
rotation, with concurrent streams, so that they are activated and evicted all the
time. Beside it, in the same group and under the same load, one process with
everything imported at start. SDKs talk to a scripted upstream on loopback, outside
the group. Where no control group can be made, the host is given the limit by its
configuration, and PSS is watched instead.
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
HELD = (512, 384, 256)
"""Megabytes at which nothing may be killed and nothing may fail."""
EAGER = 'isolation = "inline"\nidle_after = "never"\nactivate_timeout = "5m"'
"""All handlers in the server's own process, as an application has them that imports its SDKs at the top."""


@dataclass
class Watch:
    """Looks at the processes and at the group while the load runs."""

    server: servers.Server
    group: cgroups.Group | None
    pss: int = 0
    kept: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            self.pss = max(self.pss, self.server.pss())
            if self.group is not None:
                self.kept = max(self.kept, self.group.kept())


@dataclass
class Result:
    """One run."""

    tally: traffic.Tally
    kills: int
    steps: dict[str, int]
    pss: int
    kept: int
    charged: int
    ended: str


def forget_models() -> None:
    """Drop cached model files: the kernel charges a cached page to the group that read it first, and to no other."""
    for path in Path(sysconfig.get_path("purelib")).rglob("*.gguf"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(kind: str, limit: int, names: list[str], upstream: str, options: argparse.Namespace) -> Result:
    """Load the host (or the one process) under a limit in megabytes."""
    with tempfile.TemporaryDirectory(prefix="bench-limit-") as directory, cgroups.limited(limit * MB) as group:
        traffic.make_data_dir(directory)
        forget_models()
        if kind == "host":
            told = "auto" if group is not None else f"{limit}MB"
            text = traffic.config(directory, upstream, limit=told, defaults=f'idle_after = "{options.idle_after}"')
        else:
            # It has no budget: it takes what it takes.
            text = traffic.config(directory, upstream, limit="1TB", defaults=EAGER)
        prefix = group.prefix if group is not None else ()
        try:
            with servers.host(text, traffic.KEYS, prefix) as server, Watch(server, group) as watch:
                ended = "" if kind == "host" else _load_all(server, names, options.seconds)
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
                    ended = ended or f"under load, after {tally.asked} dispatches"
                steps = traffic.steps(server.log())
        except RuntimeError as error:
            return Result(traffic.Tally(), group.kills() if group else 0, {}, 0, 0, 0, f"at its start: {error}"[:60])
        return Result(
            tally,
            group.kills() if group is not None else int(watch.pss > limit * MB),
            steps,
            watch.pss,
            watch.kept,
            group.peak() if group is not None else 0,
            ended,
        )


def _load_all(server: servers.Server, names: list[str], seconds: float) -> str:
    """Import everything, before the first request; return where it ended, if it did.

    Short of memory, and without swap, an import may take for ever: the kernel reads the same files again and again.
    """
    patience = max(seconds, servers.PATIENCE)
    until = time.monotonic() + patience
    for name in names:
        try:
            server.admin(f"/admin/handlers/{name}/load", "POST")
        except urllib.error.HTTPError as error:
            return f"while {name} was imported: {error.read().decode()}"[:60]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if server.process.poll() is not None or _is_dying(server):
                return f"while {name} was imported"
            return f"{name} was not imported within {servers.PATIENCE:g} s"
        if time.monotonic() > until:
            return f"{name} was imported after {patience:g} s only"
    return ""


def _is_dying(server: servers.Server) -> bool:
    try:
        server.process.wait(10)
    except subprocess.TimeoutExpired:
        return False
    return True


def _minutes(options: argparse.Namespace, limits: int) -> float:
    """Return how long all runs take if nobody ends early; with each, about 20 s of starts and imports."""
    seconds: float = options.seconds
    return limits * len(options.kinds.split(",")) * (seconds + 20) / 60 + 1


def _milliseconds(values: list[float], share: float) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000:.0f}"


def row(kind: str, limit: int, result: Result) -> tuple[object, ...]:
    """Return a line of the table."""
    outcomes = result.tally.outcomes
    never, fine = outcomes["never fits"], outcomes["ok"]
    failed = outcomes.total() - fine - never
    verdict = ""
    if kind == "host" and limit in HELD:
        held = not result.kills and not failed and not result.ended and result.tally.accounted
        verdict = "met" if held and not never else ("met for what fits" if held else "MISSED")
    return (
        f"{limit}",
        kind,
        outcomes.total(),
        failed,
        never,
        result.kills,
        result.steps.get("activated", 0),
        result.steps.get("evicted", 0),
        result.steps.get("idle", 0),
        megabytes(result.pss),
        megabytes(result.kept),
        megabytes(result.charged),
        f"{_milliseconds(result.tally.warm, 0.5)} / {_milliseconds(result.tally.warm, 0.99)}",
        f"{_milliseconds(result.tally.cold, 0.5)} / {_milliseconds(result.tally.cold, 0.99)}",
        result.ended or "alive",
        verdict,
    )


def which(names: list[str], result: Result) -> str:
    """Return in a sentence which handlers have answered, and why the others have not."""
    tally = result.tally
    told = ", ".join(f"{name} {tally.answered[name]}" for name in names if tally.answered[name])
    parts = [f"answers of {told}" if told else "no answer"]
    parts += [f"left out: {reason}" for reason in tally.unfit.values()]
    none = [name for name in names if not tally.answered[name] and name not in tally.unfit]
    if none:
        parts.append(f"never answered: {', '.join(none)}")
    if result.ended:
        parts.append(f"ended {result.ended}")
    return "; ".join(parts)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of load for each run")
    parser.add_argument("--limits", default="512,384,256,192", help="megabytes, separated by commas")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two dispatches of a client")
    parser.add_argument("--idle-after", default="2s", help="the handlers' idle time: short, so that they come and go")
    parser.add_argument("--kinds", default="host,one process")
    options = parser.parse_args()
    limits = [int(limit) for limit in options.limits.split(",")]
    with cgroups.limited(512 * MB) as group:
        how = f"control group {group.version}" if group is not None else None
    print(
        *tables.header("openai", "anthropic", "google-generativeai", "litellm", "xllamacpp", "gspread"),
        f"runs: 1 of {options.seconds:g} s for each line, {options.clients} clients, idle_after {options.idle_after}",
        f"limit: hard, by a {how}"
        if how is not None
        else "limit: NO control group can be made here: the host is told of it, and PSS is watched ('kills' is 1 if it "
        "was over)",
        f"takes at most {_minutes(options, len(limits)):.0f} minutes, less where one is killed at once",
        sep="\n",
        flush=True,
    )
    rows, failures = [], []
    with servers.upstream(chunks=20, pause=0.02) as upstream:
        with tempfile.TemporaryDirectory(prefix="bench-limit-") as directory:
            traffic.make_data_dir(directory)
            with servers.host(traffic.config(directory, upstream.url), traffic.KEYS) as probe:
                names, left_out = traffic.handlers_of(probe)
        print("handlers:", ", ".join(names), *left_out, sep="\n" if left_out else " ", flush=True)
        for limit in limits:
            for kind in options.kinds.split(","):
                result = run(kind, limit, names, upstream.url, options)
                rows.append(row(kind, limit, result))
                print(f"{limit} MB, {kind}: {which(names, result)}", flush=True)
                # One of each kind: the numbers in them differ each time. Who never fits is told above.
                told = [one for one in result.tally.failures if not one.startswith("never fits")]
                kinds = {failure.partition(",")[0]: failure for failure in told}
                failures += [f"{limit} MB, {kind}: {failure}" for failure in kinds.values()]
    tables.print_table(
        "All handlers in rotation under a hard limit",
        [
            "limit MB",
            "what",
            "dispatches",
            "failed",
            "do not fit",
            "kills",
            "activated",
            "evicted",
            "idle",
            "peak PSS MB",
            "peak kept MB",
            "peak charged MB",
            "warm ms, median / p99",
            "cold ms, median / p99",
            "ended",
            "target",
        ],
        rows,
        [
            "failed: all but whole answers, refusals of what can never fit apart; ms to the first piece",
            "kept: what the kernel cannot drop (no cached files); charged: with cached files, up to the limit",
            *failures[:20],
        ],
    )


if __name__ == "__main__":
    main()
