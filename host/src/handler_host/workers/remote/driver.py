"""The process in which an engine's own code runs: ``python -m handler_host.workers.remote.driver FD``.

It loads the launcher that the host names, connects to its engine, and serves the messages of a control socket:
start a worker, kill a worker. It reports machines and exits. When the socket closes, it stops all workers and ends.
``python -m handler_host.workers.remote.driver --examine NAME`` prints the findings for ``handler-host doctor``.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import traceback
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Any

import msgspec

from handler_host.config.launchers import LAUNCHER_GROUP
from handler_host.workers.process_exit import exit_process
from handler_host.workers.remote.engine import Engine, EngineError, EngineWorker, Finding, PlaceReport, WorkerRequest
from handler_host.workers.remote.messages import (
    MAX_MESSAGE,
    Configure,
    Connected,
    Exited,
    Failed,
    Kill,
    Launch,
    Launched,
    Places,
    Refused,
    encode,
    requests,
)
from handler_host.workers.remote.outbox import Outbox

PLACES_INTERVAL = 1.0
"""Seconds between two queries of the machines."""
PLACES_PER_MESSAGE = 100
CLOSE_TIMEOUT = 5.0
"""Seconds to stop all workers; after that the process ends anyway, and the engine cleans up after it."""


def load_engine(name: str, options: Mapping[str, Any]) -> Engine:
    """Return the engine of a launcher; raises :class:`EngineError`."""
    launchers = {entry.name: entry for entry in entry_points(group=LAUNCHER_GROUP)}
    if name not in launchers:
        installed = ", ".join(sorted(launchers)) or "none"
        raise EngineError(
            f"launcher {name!r} is not installed in {sys.prefix} (installed: {installed}); "
            f"install handler-host-{name.replace('_', '-')} there, or correct isolation",
            is_final=True,
        )
    try:
        factory = launchers[name].load()
    except Exception as error:
        text = f"launcher {name!r} cannot be imported: {type(error).__name__}: {error}; install it again"
        raise EngineError(text, is_final=True) from error
    engine: Engine = factory(options)
    return engine


class Driver:
    """Serves one host over ``control``, a socket that keeps the boundaries of messages."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._outbox = Outbox(control)
        self._loop = asyncio.get_running_loop()
        self._engine: Engine | None = None
        self._runs: dict[int, asyncio.Task[None]] = {}
        """Tasks that start a worker and wait for its exit."""
        self._workers: dict[int, EngineWorker] = {}
        """The workers that are started."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._places: tuple[PlaceReport, ...] | None = None

    async def serve(self) -> None:
        """Serve until the host closes the socket, or the engine is gone."""
        configure = requests.decode(await self._loop.sock_recv(self._control, MAX_MESSAGE))
        assert isinstance(configure, Configure), "the first message"
        try:
            await self._connect(configure)
            watching = asyncio.create_task(self._watch_places(), name="places")
            receiving = asyncio.create_task(self._receive(), name="requests")
            await asyncio.wait({watching, receiving}, return_when=asyncio.FIRST_COMPLETED)
            receiving.cancel()
            watching.cancel()
            if watching.done() and not watching.cancelled():
                watching.result()
        except EngineError as error:
            self._send(Failed(str(error), error.is_final))
        finally:
            if self._engine is not None:
                with suppress(Exception):  # what matters is that the process ends
                    async with asyncio.timeout(CLOSE_TIMEOUT):
                        await self._engine.close()

    async def _connect(self, configure: Configure) -> None:
        self._engine = load_engine(configure.launcher, json.loads(configure.options))
        certificate = b""
        if configure.tls:
            try:
                from handler_host.workers.remote.certificate import make_certificate
            except ImportError as error:
                text = f"TLS needs cryptography in {sys.prefix}: install handler-host[remote] there, or set tls = false"
                raise EngineError(text, is_final=True) from error
            certificate = make_certificate()
        address = await self._engine.start()
        await self._report_places()
        self._send(Connected(address, certificate))

    async def _watch_places(self) -> None:
        while True:
            await asyncio.sleep(PLACES_INTERVAL)
            await self._report_places()

    async def _report_places(self) -> None:
        assert self._engine is not None, "connected"
        places = tuple(sorted(await self._engine.places(), key=lambda place: place.name))
        if places == self._places:
            return
        self._places = places
        for start in range(0, max(1, len(places)), PLACES_PER_MESSAGE):
            end = start + PLACES_PER_MESSAGE
            self._send(Places(places[start:end], is_last=end >= len(places)))

    async def _receive(self) -> None:
        while data := await self._loop.sock_recv(self._control, MAX_MESSAGE):
            request = requests.decode(data)
            if isinstance(request, Launch):
                self._launch(request)
            elif isinstance(request, Kill):
                self._kill(request.number)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _launch(self, launch: Launch) -> None:
        self._runs[launch.number] = run = self._spawn(self._run(launch))
        run.add_done_callback(lambda _: self._runs.pop(launch.number))

    async def _run(self, launch: Launch) -> None:
        """Start a worker, and report its exit."""
        assert self._engine is not None, "connected"
        number = launch.number
        request = WorkerRequest(launch.handler, launch.place, launch.memory, launch.resources, launch.connection)
        try:
            worker = await self._engine.launch(request)
        except EngineError as error:
            self._send(Refused(number, str(error), error.is_final))
            return
        except Exception as error:  # noqa: BLE001 - the engine's own code
            self._send(Refused(number, f"{type(error).__name__}: {error}", is_final=False))
            return
        self._workers[number] = worker
        self._send(Launched(number))
        status = await worker.wait()
        del self._workers[number]
        self._send(
            Exited(number, status.code, status.signal, status.maxrss, status.describe() if status.lost else None)
        )

    def _kill(self, number: int) -> None:
        """Kill a worker, or cancel its launch; has no effect when it has exited."""
        worker, run = self._workers.get(number), self._runs.get(number)
        if worker is not None:
            self._spawn(worker.kill())
        elif run is not None:
            run.cancel()

    def _send(self, notice: Connected | Failed | Places | Launched | Refused | Exited) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self._outbox.send(encode(notice))


async def _serve(fd: int) -> None:
    control = socket.socket(fileno=fd)
    control.setblocking(False)
    try:
        await Driver(control).serve()
    except Exception:
        traceback.print_exc()
        raise
    finally:
        # Not through the end of the event loop, which waits for threads: a request to a dead cluster may hang in one.
        exit_process(0)


async def _examine(name: str) -> list[Finding]:
    """Return the findings of an engine; the options are read from standard input as JSON."""
    try:
        engine = load_engine(name, json.loads(sys.stdin.buffer.read()))
        await engine.start()
    except EngineError as error:
        return [Finding(False, str(error))]
    try:
        return list(await engine.examine())
    finally:
        await engine.close()


async def _print_findings(name: str) -> None:
    findings = await _examine(name)
    sys.stdout.buffer.write(msgspec.json.encode(findings) + b"\n")
    exit_process(0)  # as in `_serve`


def main(arguments: list[str]) -> None:
    """Run the driver; it ends the process without the engine's own shutdown, which may wait for a cluster."""
    if arguments[0] == "--examine":
        asyncio.run(_print_findings(arguments[1]))
    else:
        asyncio.run(_serve(int(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
