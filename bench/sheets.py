"""Measure the handler ``sheets``: ``python -m bench.sheets``.

Memory and time of its first dispatch, acknowledged appends, calls of the API, and
the memory that an unload releases; with a local workbook, and with the tests'
stand-in for Google, which gets a latency. For comparison, one ``append_row`` of gspread
for each row: rows per minute under a quota, and rows lost in the same script of faults.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bench import servers, tables
from bench.memory import RELEASED_TARGET, megabytes
from tests.integration.plugins.sheets.google import BOOK, Google, serving

GOOGLE = "https://sheets.googleapis.com"
CALLS_TARGET = 5
"""Calls of the API for 1,000 appended rows."""
CLIENTS = 16
"""Number of clients that append at the same time."""
SCRIPT: list[dict[str, Any]] = [
    {"status": 503},
    {"act": "cut", "when": "after"},
    {"status": 429},
    {"act": "cut"},
    {"status": 500, "when": "after"},
]
"""Faults of every tenth append, in turn."""


class StandIn:
    """The stand-in for Google, in a thread of its own."""

    def __init__(self, google: Google, loop: asyncio.AbstractEventLoop) -> None:
        self.google = google
        self._loop = loop
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def key(self) -> dict[str, str]:
        """Return a service account's key for the stand-in."""
        form = serialization.PrivateFormat.PKCS8
        pem = self._key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        return self.google.key(pem.decode())

    def settings(self) -> dict[str, Any]:
        """Return the handler's settings for the stand-in."""
        return {"spreadsheet": BOOK, "endpoint": self.google.url}


@contextlib.contextmanager
def stand_in(latency: float = 0.0) -> Iterator[StandIn]:
    """Run the stand-in; each call takes ``latency`` more seconds."""
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    google = Google()
    google.latency = latency

    async def run() -> None:
        async with serving(google):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    ready.wait()
    try:
        yield StandIn(google, loop)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@contextlib.contextmanager
def host(google: StandIn | None = None, **settings: Any) -> Iterator[servers.Server]:
    """Run a host, with a data directory of its own."""
    if google is not None:
        settings = {**google.settings(), **settings}
    with tempfile.TemporaryDirectory(prefix="bench-sheets-") as directory:
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        config = "\n".join([f'data_dir = "{directory}"', "[workers]", 'linger = "0s"', "[handlers.sheets]", *lines])
        environment = {"GOOGLE_SERVICE_ACCOUNT_JSON": json.dumps(google.key())} if google is not None else {}
        with servers.host(config, environment) as server:
            yield server


def ask(server: servers.Server, operation: str, **request: Any) -> Any:
    return server.post(f"/v1/handlers/sheets/{operation}", request)


async def load(server: servers.Server, operation: str, requests: list[dict[str, Any]]) -> float:
    """Send all requests over ``CLIENTS`` clients; return the seconds."""
    waiting = list(requests)

    async def client(session: aiohttp.ClientSession) -> None:
        while waiting:
            url = f"{server.url}/v1/handlers/sheets/{operation}"
            async with session.post(url, json=waiting.pop()) as response:
                text = await response.text()
                if response.status != 200:
                    raise SystemExit(f"{operation}: status {response.status}: {text}")

    async with aiohttp.ClientSession() as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
        return time.perf_counter() - started


def first_dispatch(google: StandIn | None) -> tuple[float, float, int, int]:
    """Return ms of the first append and of the first read, bytes of the active handler, and bytes released."""
    with host(google) as server:
        before = servers.settle(server)
        started = time.perf_counter()
        ask(server, "log.append", event="first")
        append = time.perf_counter() - started
        started = time.perf_counter()
        ask(server, "users.get", user_id="1")
        read = time.perf_counter() - started
        ask(server, "sync")
        size = servers.settle(server) - before
        server.admin("/admin/handlers/sheets/unload", "POST")
        while len(server.pids) > 1:
            time.sleep(0.01)
        return append * 1000, read * 1000, size, size - (servers.settle(server) - before)


def appends(google: StandIn | None, rows: int) -> tuple[float, float, int]:
    """Return acknowledged one-row appends per second, seconds until all are written, and calls of the API."""
    with host(google) as server:
        ask(server, "log.append", event="first")
        ask(server, "sync")
        calls = len(google.google.calls) if google is not None else 0
        requests = [{"user_id": str(number % 7), "event": "e", "text": "x" * 80} for number in range(rows)]
        started = time.perf_counter()
        seconds = asyncio.run(load(server, "log.append", requests))
        while ask(server, "status")["pending"]:
            time.sleep(0.05)
        written = time.perf_counter() - started
        return rows / seconds, written, (len(google.google.calls) if google is not None else 0) - calls


def reads(google: StandIn, count: int) -> tuple[float, int]:
    """Return reads per second, and calls of the API."""
    with host(google) as server:
        ask(server, "users.register", user_id="1", name="One")
        ask(server, "sync")
        calls = len(google.google.calls)
        seconds = asyncio.run(load(server, "users.get", [{"user_id": "1"}] * count))
        return count / seconds, len(google.google.calls) - calls


def naive(google: StandIn, rows: int, tries: int) -> tuple[int, int, int]:
    """Append rows by gspread; return the numbers of rows written, rows written twice, and failed calls."""
    worksheet = naive_worksheet(google)
    failed = 0
    for number in range(rows):
        for _ in range(tries):
            try:
                worksheet.append_row([str(number), "e", "x" * 80])
                break
            except Exception:  # noqa: BLE001 - any error leaves one row in doubt
                failed += 1
    return _tally([line[0] for line in google.google.sheet("Sheet1").cells if line], failed)


def naive_worksheet(google: StandIn) -> Any:
    import gspread
    from google.oauth2.service_account import Credentials
    from gspread.http_client import HTTPClient

    class Quiet(Credentials):
        def _is_regional_access_boundary_lookup_required(self) -> bool:
            return False

    class Directed(HTTPClient):
        def request(self, method: str, endpoint: str, *args: Any, **kwargs: Any) -> Any:
            return super().request(method, endpoint.replace(GOOGLE, google.google.url), *args, **kwargs)

    scopes = ["https://www.googleapis.com/auth/spreadsheets"]
    kind: Any = Quiet  # google-auth is typed, but not this function
    client = gspread.Client(kind.from_service_account_info(google.key(), scopes=scopes), http_client=Directed)
    return client.open_by_key(BOOK).worksheet("Sheet1")


def with_faults(rows: int) -> list[tuple[str, int, int, int]]:
    """Return, for each way, rows written, rows written twice, and failed requests, with the script of faults."""
    outcomes = []
    for name, tries in (("gspread, append_row each", 1), ("the same, retried after an error", 5)):
        with stand_in() as google:
            inject_faults(google.google)
            outcomes.append((name, *naive(google, rows, tries)))
    with stand_in() as google:
        # Small batches, so that it gets the same faults.
        quick = {"flush_after": 0, "batch_rows": 1, "settle": 2, "retry_first": 0.05, "retry_longest": 0.5}
        plenty = {"writes_per_minute": 10**6, "reads_per_minute": 10**6}
        with host(google, **quick, **plenty) as server:
            ask(server, "log.append", event="first")
            ask(server, "sync")
            inject_faults(google.google)
            failed = 0
            for number in range(rows):
                ask(server, "log.append", event=str(number))
            while ask(server, "status")["pending"]:
                time.sleep(0.1)
        events = [row["event"] for row in google.google.rows("log") if row["event"] != "first"]
        outcomes.append(("sheets", *_tally(events, failed)))
    return outcomes


def inject_faults(google: Google) -> None:
    """Inject the script into every tenth append."""
    count = 0

    def fault(name: str) -> Any:
        nonlocal count
        if ":append" not in name:
            return None
        count += 1
        if count % 10:
            return None
        google.faults[:] = []
        return google.fail(":append", **SCRIPT[count // 10 % len(SCRIPT)])

    google._fault = fault  # type: ignore[method-assign]


def _tally(written: list[str], failed: int) -> tuple[int, int, int]:
    return len(set(written)), len(written) - len(set(written)), failed


def a_minute(seconds: float) -> list[tuple[str, int, float]]:
    """Return, for each way, the rows written under the quota of 60 writes a minute, and the seconds."""
    outcomes = []
    with stand_in() as google:
        google.google.quota = 60
        worksheet = naive_worksheet(google)
        started, written = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            try:
                worksheet.append_row(["e", "x" * 80])
                written += 1
            except Exception:  # noqa: BLE001 - refused
                time.sleep(0.2)
        outcomes.append(("gspread, append_row each", written, time.perf_counter() - started))
    with stand_in() as google:
        google.google.quota = 60
        with host(google) as server:
            started, number = time.perf_counter(), 0
            while time.perf_counter() - started < seconds:
                asyncio.run(load(server, "log.append", [{"event": "e", "text": "x" * 80}] * 200))
            elapsed = time.perf_counter() - started
            number = len(google.google.rows("log"))
        outcomes.append(("sheets", number, elapsed))
    return outcomes


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds of each call to the stand-in")
    parser.add_argument("--seconds", type=float, default=60, help="of the run under a quota")
    options = parser.parse_args()
    print(*tables.header("gspread", "google-auth"), f"runs: {options.runs}; medians", sep="\n")

    def median(*runs: Any) -> list[float]:
        return [statistics.median(column) for column in zip(*runs, strict=True)]

    rows: list[tuple[object, ...]] = []
    speeds: list[tuple[object, ...]] = []
    with stand_in(options.latency) as google:
        for name, remote in (("local workbook", None), ("Google stand-in", google)):
            append, read, size, released = median(*(first_dispatch(remote) for _ in range(options.runs)))
            share = released / size
            rows.append(
                (
                    name,
                    f"{append:.0f}",
                    f"{read:.0f}",
                    megabytes(size),
                    f"{100 * share:.1f} %",
                    tables.verdict(share, RELEASED_TARGET, at_least=True),
                )
            )
            rate, written, calls = median(*(appends(remote, options.rows) for _ in range(options.runs)))
            each = calls * 1000 / options.rows
            speeds.append(
                (
                    name,
                    f"{rate:.0f}",
                    f"{written:.1f}",
                    f"{each:.1f}" if remote is not None else "-",
                    tables.verdict(each, CALLS_TARGET) if remote is not None else "-",
                )
            )
        read_rate, read_calls = median(*(reads(google, 1000) for _ in range(options.runs)))
    tables.print_table(
        "First dispatch and unload",
        ["tabs", "first append ms", "then first read ms", "PSS MB", "released", f">= {RELEASED_TARGET:.0%}"],
        rows,
        [
            f"Each call to the stand-in takes {options.latency:g} s more; the fork server ends with the worker.",
            "PSS: fork server and worker, connected, after a sync. The first read from Google connects, too.",
        ],
    )
    tables.print_table(
        f"Acknowledged appends, one row each, {CLIENTS} clients, {options.rows} rows",
        ["tabs", "appends/s", "all written s", "API calls for 1,000 rows", f"<= {CALLS_TARGET}"],
        speeds,
        [f"1,000 reads from the stand-in: {read_calls:.0f} API calls (at most one in 30 s), {read_rate:.0f} a second."],
    )
    tables.print_table(
        "Rows written under Google's quota of 60 writes a minute",
        ["way", "rows written", "seconds"],
        [(name, count, f"{seconds:.0f}") for name, count, seconds in a_minute(options.seconds)],
        ["A run of less than a minute has the quota of a whole minute."],
    )
    tables.print_table(
        "200 rows, a fault at every tenth append",
        ["way", "rows written", "lost", "written twice", "errors for the caller"],
        [(name, rows, 200 - rows, twice, failed) for name, rows, twice, failed in with_faults(200)],
        ["503, connection cut after the effect, 429, cut before it, 500 after the effect, in turn."],
    )


if __name__ == "__main__":
    main()
