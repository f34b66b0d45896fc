"""Servers that the benchmarks measure, each in a process of its own on a free loopback port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

TOKEN = "benchmark-admin-token"
TIMEOUT_S = 120.0
"""Seconds within which a server must respond."""
BARE = """\
import asyncio, json, sys
from aiohttp import web

async def live(request):
    return web.Response(text="ok")

async def echo(request):
    return web.json_response(await request.json())

async def stream(request):
    message = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(message["chunks"]):
        await response.write(b"data: " + json.dumps({"number": number}).encode() + b"\\n\\n")
    await response.write_eof()
    return response

async def main():
    app = web.Application()
    app.router.add_get("/health/live", live)
    app.router.add_post("/echo", echo)
    app.router.add_post("/stream", stream)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print("ready http://127.0.0.1:%d" % runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
"""A plain server on aiohttp alone, to compare the host with."""


class Server:
    """A server process that is ready, and its tree of processes."""

    def __init__(self, process: subprocess.Popen[str], url: str, errors: IO[str]) -> None:
        self.process = process
        self.url = url
        self._errors = errors

    def log(self) -> str:
        """Return everything that it wrote to standard error until now."""
        return os.pread(self._errors.fileno(), 2**30, 0).decode(errors="replace")

    @property
    def pids(self) -> list[int]:
        """The process and all its descendants."""
        pids, unvisited = [], [self.process.pid]
        while unvisited:
            pid = unvisited.pop()
            pids.append(pid)
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    unvisited += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        return pids

    def pss(self) -> int:
        """Return the PSS of the whole tree, in bytes."""
        return sum(map(pss_of, self.pids))

    def cpu(self) -> float:
        """Return the seconds of processor time that the tree used, ended children included."""
        ticks = 0
        for pid in self.pids:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def admin(self, path: str, method: str = "GET") -> Any:
        """Call an admin route; return its JSON."""
        return self.call(path, method, {"Authorization": f"Bearer {TOKEN}"})

    def post(self, path: str, body: object, **headers: str) -> Any:
        """Post JSON; return the JSON of the response."""
        return self.call(path, "POST", {"Content-Type": "application/json", **headers}, json.dumps(body).encode())

    def call(self, path: str, method: str, headers: dict[str, str], data: bytes | None = None) -> Any:
        """Send a request without any proxy; return the JSON of the response. Raises ``urllib.error.HTTPError``."""
        request = urllib.request.Request(self.url + path, method=method, headers=headers, data=data)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT_S) as response:
            return json.loads(response.read())


def pss_of(pid: int, field: str = "Pss") -> int:
    """Return the PSS of one process in bytes, 0 if it has ended; ``field`` names another line of ``smaps_rollup``."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def bare() -> Iterator[Server]:
    """Run the bare aiohttp server."""
    with running([sys.executable, "-c", BARE], {}) as server:
        yield server


@contextlib.contextmanager
def host(
    config: str = "",
    environment: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
    program: Sequence[str] = ("-m", "handler_host"),
) -> Iterator[Server]:
    """Run the host with ``config``, the text of a ``host.toml``; ``prefix`` is a command that runs it.

    ``program`` are the arguments of Python by which it starts.
    """
    with tempfile.TemporaryDirectory(prefix="bench-host-") as directory:
        path = Path(directory, "host.toml")
        path.write_text(config)
        command = [*prefix, sys.executable, *program, "serve", "--port", "0", "--config", str(path)]
        # An empty state: data that other hosts and handlers stored on this machine would change the figures.
        own = {"HANDLER_HOST_ADMIN_TOKEN": TOKEN, "XDG_DATA_HOME": directory, "XDG_STATE_HOME": directory}
        # What `make lean` has compiled is used; compiling in the background would change the figures, too.
        own["HANDLER_HOST_WORKERS__COMPILE_LEAN"] = "false"
        with running(command, own | (environment or {})) as server:
            yield server


@contextlib.contextmanager
def upstream(chunks: int, pause: float) -> Iterator[Server]:
    """Run the scripted provider: responses of ``chunks`` chunks, ``pause`` seconds before each of them."""
    command = [sys.executable, "-m", "handler_host.testing", "--chunks", str(chunks), "--pause", str(pause)]
    with running(command, {}) as server:
        yield server


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[Server]:
    """Run a server that prints ``ready URL``; ``environment`` is added to the caller's."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=inherited() | environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("ready "):
                errors.seek(0)
                raise RuntimeError(f"{' '.join(command)} did not start: {line!r}\n{errors.read()}")
            yield Server(process, line.split()[1], errors)
        finally:
            stop(process)


def inherited() -> dict[str, str]:
    """Return the environment for a server: the caller's, with bytecode enabled."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def stop(process: subprocess.Popen[str]) -> None:
    """Stop a server by SIGTERM, after 30 s by SIGKILL."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def settle(server: Server, rounds: int = 20) -> int:
    """Return the tree's PSS once it has stopped changing by more than 64 KiB, in bytes."""
    last = server.pss()
    for _ in range(rounds):
        time.sleep(0.2)
        now = server.pss()
        if abs(now - last) < 64 * 1024:
            return now
        last = now
    return last


def install(root: Path, name: str, source: str) -> None:
    """Install a plugin of one module into ``root`` as pip does: the module and its metadata."""
    (root / f"{name}.py").write_text(source)
    info = root / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[handler_host.v1]\n{name} = {name}:Handler\n")
    (info / "RECORD").write_text(f"{name}.py,,\n{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n")
