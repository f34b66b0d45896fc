"""Look for leaks after faults: ``python -m bench.soak``.

Ten minutes of mixed load on all handlers while workers crash, hang and are killed, flood the log
or break the protocol, clients disconnect or send hostile requests, operators unload and reload,
and the fork server is killed: each dispatch has one outcome, and at the end memory, file
descriptors, threads and processes are as before.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from bench import servers, tables, traffic
from bench.cycles import count
from bench.memory import megabytes

WARM_UP = 10.0
"""Seconds of the same load before the first count."""
PARTS = 4
"""Number of counts: they show whether growth stops at a bound or continues."""
GROWTH = 2 * 2**20
"""Bytes of PSS by which the tree may grow."""
THREADS = 2 + 1 + min(32, (os.cpu_count() or 1) + 4)
"""Threads of host and fork server when asyncio's pool has its full size."""
CHAOS = """\
import asyncio, logging, os, stat, time
from handler_host.chat import ChatHandler
from handler_host.plugin import operation

class Handler(ChatHandler):
    async def stream(self, request):
        for number in range(20):
            await asyncio.sleep(0.02)
            yield f"word{number} "

    @operation
    async def crash(self) -> None:
        os._exit(3)

    @operation
    async def hang(self) -> None:
        time.sleep(3600)

    @operation
    async def allocate(self) -> int:
        self.block = b"x" * (200 * 1024**2)
        return len(self.block)

    @operation
    async def flood(self) -> None:
        for number in range(20_000):
            logging.warning("flood %d \\x1b[31m\\r\\n", number)
            print("flood", number)

    @operation
    async def break_frames(self) -> None:
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                if stat.S_ISSOCK(os.fstat(number).st_mode):
                    os.write(number, b"\\xff" * 1000)
            except OSError:
                pass
        await asyncio.sleep(60)
"""
DEFAULTS = (
    'idle_after = "3s"\nactivate_timeout = "30s"\ncrash_limit = 100000\nstop_grace = "2s"\nmemory_soft_limit = "300MB"'
)
WORKERS = '[workers]\nheartbeat_interval = "500ms"\nhang_after = "6s"\nlinger = "10m"\n'
EXPLAINED = frozenset(
    {"ok", "left", "handler_crashed", "handler_unloaded", "circuit_open", "memory_budget", "out_of_resources"}
    | {"activation_failed", "event:handler_crashed", "event:handler_unloaded"}
    # A worker that gets SIGSTOP while it activates: its activation times out, or its waiting dispatches do before.
    | {"activation_timeout", "handler_loading"}
)
"""Outcomes that the injected faults explain."""

SETTLE_S = 5.0
"""Time in which the host cancels the dispatches of clients that have left."""
ATTACK_S = 3.0
"""Seconds after which the sender of a hostile request leaves."""


def _post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {size}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


_CHAT = "/v1/chat/completions"
HOSTILE = (
    _post(_CHAT, gzip.compress(b" " * 50_000_000), "Content-Encoding: gzip"),
    _post(_CHAT, b'{"a":' * 50_000, "Content-Type: application/json"),
    _post(_CHAT, b'{"model":"chaos","input":[' + b"{}," * 250_000 + b"{}]}"),
    _post(_CHAT, b'{"a":"' + b"x" * 1_000_000, length=30_000_000),
    _post("/v1/responses", b"\xff\xfe" * 10_000),
    _post("/v1/handlers/unknown/echo", b"1\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 200_000,
    _post("/admin/rescan", b"{}", "Authorization: Bearer a-wrong-token"),
    b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 5_000,
    b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: %s\r\n" % (number, b"a" * 8_000) for number in range(30)),
    b"GET /health/live HTTP/1.1\r\nHost: x",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
)
"""Bombs, deep and wide bodies, bodies and headers that do not end, smuggling, tiny chunks, a wrong token, pipelining,
another protocol."""


class Faults:
    """A random sequence of faults, from a seed."""

    def __init__(self, host: servers.Server, names: Sequence[str], tally: traffic.Tally, seed: int) -> None:
        self.injected: Counter[str] = Counter()
        self.unanswered: list[str] = []
        """Admin requests without a response."""
        self._host = host
        self._names = names
        self._tally = tally
        self._random = random.Random(seed)
        self._session: aiohttp.ClientSession
        self._pending: set[asyncio.Task[None]] = set()

    async def inject(self, until: float, pause: float) -> None:
        """Inject faults until the time ``until``; return when every request has its response."""
        kinds: list[Callable[[], Awaitable[None]]] = [
            *(self._crash, self._hang, self._leave, self._leave, self._kill, self._stop),
            *(self._unload, self._unload, self._reload, self._allocate, self._kill_fork_server),
            *(self._attack, self._attack, self._flood, self._break_frames),
        ]
        timeout = aiohttp.ClientTimeout(total=servers.TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as self._session:
            while time.perf_counter() < until and self._host.process.poll() is None:
                kind = self._random.choice(kinds)
                self.injected[kind.__name__.strip("_").replace("_", " ")] += 1
                task = asyncio.ensure_future(self._inject_one(kind))
                self._pending.add(task)
                task.add_done_callback(self._pending.discard)
                await asyncio.sleep(pause)
            await asyncio.gather(*self._pending)

    async def _inject_one(self, kind: Callable[[], Awaitable[None]]) -> None:
        """Inject a fault; an admin route without a response is a result of the run, not its end."""
        try:
            await kind()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self.unanswered.append(f"{kind.__name__.strip('_')}: {type(error).__name__}: {error}")

    async def _crash(self) -> None:
        await self._operation("crash")

    async def _hang(self) -> None:
        await self._operation("hang")

    async def _allocate(self) -> None:
        await self._operation("allocate")

    async def _flood(self) -> None:
        await self._operation("flood")

    async def _break_frames(self) -> None:
        await self._operation("break_frames")

    async def _leave(self) -> None:
        name = self._random.choice([name for name in self._names if name not in traffic.OTHER_OPERATIONS])
        size = self._random.randint(1, 600)
        await traffic.dispatch(self._session, self._host.url, name, self._tally, leave_after=size)

    async def _attack(self) -> None:
        """Send a hostile request, without a key, and leave after a while."""
        request = self._random.choice(HOSTILE)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self._host.url.rpartition(":")[2]))
        try:
            writer.write(request)
            async with asyncio.timeout(ATTACK_S):
                await reader.read(1000)
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()

    async def _kill(self) -> None:
        await self._signal(signal.SIGKILL)

    async def _stop(self) -> None:
        await self._signal(signal.SIGSTOP)

    async def _unload(self) -> None:
        mode = self._random.choice(("drain", "if_idle", "force"))
        await self._admin("POST", f"/admin/handlers/{self._random.choice(self._names)}/unload?mode={mode}&deadline_s=2")

    async def _reload(self) -> None:
        await self._admin("POST", f"/admin/handlers/{self._random.choice(self._names)}/reload?deadline_s=2")

    async def _kill_fork_server(self) -> None:
        # Rarely: all workers end with it.
        if self._random.random() < 0.2:
            for pid in (await self._admin("GET", "/admin/memory"))["fork_server_pids"]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def _signal(self, number: int) -> None:
        workers = (await self._admin("GET", "/admin/memory"))["workers"]
        if workers:
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(list(workers.values()))["pid"], number)

    async def _operation(self, operation: str) -> None:
        self._tally.dispatches += 1
        url = f"{self._host.url}/v1/handlers/chaos/{operation}"
        try:
            async with self._session.post(url, json={}) as response:
                body = await response.json()
                self._tally.add("ok" if response.status == 200 else body["error"]["code"], str(body))
        except TimeoutError:
            self._tally.add("hung", f"chaos: no response of {operation} within {servers.TIMEOUT_S:g} s")
        except aiohttp.ClientError as error:
            self._tally.add("cut off", f"chaos: {type(error).__name__}: {error}")

    async def _admin(self, method: str, path: str) -> Any:
        headers = {"Authorization": f"Bearer {servers.TOKEN}"}
        async with self._session.request(method, self._host.url + path, headers=headers) as response:
            return await response.json()


async def soak(
    host: servers.Server, names: Sequence[str], options: argparse.Namespace
) -> tuple[traffic.Tally, traffic.Tally, Faults]:
    """Run load and faults; return the outcomes of both, and the faults."""
    own = traffic.Tally()
    faults = Faults(host, names, own, options.seed)
    until = time.perf_counter() + options.seconds
    clients = traffic.rotate(
        host.url, names, options.clients, options.seconds, lambda: host.process.poll() is None, options.pause
    )
    tally, _ = await asyncio.gather(clients, faults.inject(until, options.fault_every))
    return tally, own, faults


def left_in_flight(host: servers.Server) -> int:
    """Return the dispatches in flight once those of clients that left have been cancelled."""
    until = time.perf_counter() + SETTLE_S
    while True:
        handlers = host.admin("/admin/handlers")["handlers"]
        in_flight: int = sum(handler["in_flight"] + handler["queued"] for handler in handlers)
        if not in_flight or time.perf_counter() > until:
            return in_flight
        time.sleep(0.2)


class Rest(NamedTuple):
    """Counts and memory (bytes of PSS) of the host and its fork servers, with all handlers unloaded."""

    counts: dict[str, int]
    host: int
    """Anonymous memory: mapped files are shared with every process that maps them."""
    fork_server: int


def at_rest(host: servers.Server, names: Sequence[str]) -> Rest:
    """Unload all handlers, then measure."""
    for name in names:
        host.admin(f"/admin/handlers/{name}/unload?mode=force", "POST")
    counts = count(host)
    own, *fork_servers = (servers.pss_of(pid, "Pss_Anon") for pid in host.pids)
    return Rest(counts, own, sum(fork_servers))


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two dispatches of a client")
    parser.add_argument("--fault-every", type=float, default=0.7, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(
        *tables.header("openai", "anthropic", "google-generativeai", "litellm", "xllamacpp", "gspread"),
        f"runs: 1 of {options.seconds:g} s, {options.clients} clients, a fault every {options.fault_every:g} s, "
        f"seed {options.seed}; MB are 2**20 bytes of PSS",
        f"takes at most {(options.seconds + WARM_UP + servers.TIMEOUT_S) / 60 + 1:.0f} minutes",
        sep="\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as directory, servers.upstream(20, 0.02) as upstream:
        traffic.make_data_dir(directory)
        servers.install(Path(directory), "chaos", CHAOS)
        config = traffic.config(directory, upstream.url, defaults=DEFAULTS) + WORKERS
        config += f'[catalog]\nroots = ["{directory}"]\n[handlers.chaos]\ncrash_limit = 3\ncircuit_pause = "3s"\n'
        with servers.host(config, traffic.KEYS) as host:
            names, excluded = traffic.handlers_of(host)
            print("handlers:", ", ".join(names), *excluded, sep="\n" if excluded else " ", flush=True)
            # Count after a first round, which opens everything that stays open.
            asyncio.run(soak(host, names, argparse.Namespace(**{**vars(options), "seconds": WARM_UP})))
            rests = [at_rest(host, names)]
            tallies: list[traffic.Tally] = []
            injected: Counter[str] = Counter()
            unanswered: list[str] = []
            in_flight, alive = 0, True
            for part in range(PARTS):
                share = {"seconds": options.seconds / PARTS, "seed": options.seed + part}
                tally, own, faults = asyncio.run(soak(host, names, argparse.Namespace(**{**vars(options), **share})))
                tallies += [tally, own]
                injected += faults.injected
                unanswered += faults.unanswered
                alive = host.process.poll() is None
                if not alive:
                    break
                in_flight += left_in_flight(host)
                rests.append(at_rest(host, names))
            ends = traffic.steps(host.log())
    outcomes = sum((tally.outcomes for tally in tallies), Counter[str]())
    unexplained = {outcome: number for outcome, number in outcomes.items() if outcome not in EXPLAINED}
    accounted = all(tally.accounted for tally in tallies) and not in_flight
    dispatches = sum(tally.dispatches for tally in tallies)
    account = f"dispatches: {dispatches}, with an outcome: {outcomes.total()}, left in flight: {in_flight}: "
    account += "all accounted for" if accounted else "NOT ALL ACCOUNTED FOR"
    tables.print_table(
        "Dispatches and their outcomes",
        ["outcome", "dispatches", "explained by a fault"],
        [(outcome, number, "yes" if outcome in EXPLAINED else "NO") for outcome, number in outcomes.most_common()],
        [
            account,
            f"faults injected: {', '.join(f'{number} x {kind}' for kind, number in injected.most_common())}",
            "ends of workers: " + ", ".join(f"{number} x {cause}" for cause, number in ends.most_common()),
            *(f"no response to an admin request: {request}" for request in unanswered[:20]),
            *(failure for tally in tallies for failure in tally.failures if failure.partition(": ")[0] in unexplained),
        ],
    )
    before, after = rests[0].counts, rests[-1].counts
    grown = after["pss"] - before["pss"]
    same = after["processes"] == before["processes"] and after["fds"] == before["fds"] and not after["zombies"]
    same = same and after["threads"] <= max(before["threads"], THREADS)
    met = grown <= GROWTH and same and accounted and alive and not unexplained and not unanswered
    kinds = ("processes", "fds", "threads", "zombies")
    tables.print_table(
        "Host and fork server, all handlers unloaded",
        ["after s of load", "PSS MB", "host's own MB", "fork server's own", *kinds],
        [
            (
                f"{WARM_UP + part * options.seconds / PARTS:.0f}",
                *map(megabytes, (rest.counts["pss"], rest.host, rest.fork_server)),
                *(rest.counts[kind] for kind in kinds),
            )
            for part, rest in enumerate(rests)
        ],
        [
            "own: anonymous memory, which is not mapped from files",
            f"threads: {THREADS} at most: two main threads, one that measures, and asyncio's pool",
            f"grown by {grown / 2**20:+.1f} MB, counts unchanged, all accounted for, the host alive: "
            + ("met" if met else "MISSED"),
        ],
    )


if __name__ == "__main__":
    main()
