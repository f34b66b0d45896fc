"""The host's end of an engine's driver: its process, its control socket, its workers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from handler_host.config.launchers import LauncherConfig
from handler_host.memory.place import PlaceReport
from handler_host.plugin.errors import ActivationFailed, HostError, OutOfResources
from handler_host.workers.host_signals import host_signals_blocked
from handler_host.workers.output_logger import OutputLogger
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
    notices,
)
from handler_host.workers.remote.outbox import Outbox
from handler_host.workers.worker_process import ExitStatus, out_of_resources, reap, wait_for_exit

log = logging.getLogger(__name__)

EXIT_TIMEOUT = 10.0
"""Seconds that a driver has to exit after its control socket is closed."""

RETRY_S = 5.0
"""``Retry-After`` while an engine is not reachable."""


class DriverProcess:
    """The driver of launcher ``name``. ``exited`` is set when its process has exited and is reaped.

    ``users`` belongs to the launcher: the number of workers that it has, or is about to have. ``on_places`` is called
    with all machines whenever they change. Raises ``OutOfResources`` if the process cannot be started.
    """

    def __init__(
        self,
        name: str,
        options: bytes,
        config: LauncherConfig,
        environment: Mapping[str, str],
        on_places: Callable[[list[PlaceReport]], None],
    ) -> None:
        self.users = 0
        self.disconnected = False
        """It has exited or is about to: it accepts no further request."""
        self.failure: HostError | None = None
        """Why it has ended, if the engine is the reason."""
        self._name = name
        self._timeout = config.start_timeout
        self._loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[Connected] = self._loop.create_future()
        self._numbers = itertools.count(1)
        self._launches: dict[int, asyncio.Future[None]] = {}
        self._exits: dict[int, asyncio.Future[ExitStatus]] = {}
        self._places: list[PlaceReport] = []
        self._on_places = on_places
        self._control, output = self._start(str(config.python or sys.executable), environment)
        self.pid = self._process.pid
        self._output = OutputLogger(output, name, lines_per_second=50)
        self._control.setblocking(False)
        self._outbox = Outbox(self._control)
        self._loop.add_reader(self._control, self._receive_notices)
        self.exited: asyncio.Task[None] = asyncio.create_task(self._wait_and_reap(), name=f"exit of the {name} driver")
        self._timer = self._loop.call_later(self._timeout, self._expire)
        self._send(Configure(name, options, config.tls))

    def _start(self, python: str, environment: Mapping[str, str]) -> tuple[socket.socket, int]:
        """Start the process; return the host's ends of its control socket and of its output pipe."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        read, write = os.pipe()
        try:
            with host_signals_blocked():
                self._process = subprocess.Popen(
                    [python, "-P", "-m", "handler_host.workers.remote.driver", str(theirs.fileno())],
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=write,
                    stderr=write,
                    pass_fds=(theirs.fileno(),),
                    process_group=0,
                )
        except OSError as error:
            ours.close()
            os.close(read)
            raise out_of_resources(f"the driver of launcher {self._name!r} ({python})", error) from error
        finally:
            theirs.close()
            os.close(write)
        return ours, read

    async def launch(self, launch: Callable[[int], Launch]) -> tuple[int, asyncio.Future[ExitStatus]]:
        """Start a worker; return its number and the future of its exit. Raises ``HostError``."""
        number = next(self._numbers)
        launched: asyncio.Future[None] = self._loop.create_future()
        exit: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._launches[number], self._exits[number] = launched, exit
        try:
            self._send(launch(number))
            async with asyncio.timeout(self._timeout):
                await launched
        except BaseException as error:
            self.kill(number)
            self._launches.pop(number, None)
            self._exits.pop(number, None)
            if isinstance(error, TimeoutError):
                raise OutOfResources(
                    f"launcher {self._name!r} has not started a worker within {self._timeout:g} s (start_timeout); "
                    "retry later, or look at its engine",
                    retry_after=RETRY_S,
                ) from None
            raise
        return number, exit

    def kill(self, number: int) -> None:
        """Kill a worker."""
        if not self.disconnected:
            with suppress(OutOfResources):
                self._send(Kill(number))

    def close(self) -> None:
        """Stop it, and its workers with it; ``exited`` is set when that is done."""
        if not self.disconnected:
            self._disconnect()
            timer = self._loop.call_later(EXIT_TIMEOUT, self._kill_process)
            self.exited.add_done_callback(lambda _: timer.cancel())

    def _expire(self) -> None:
        """End a driver that has not connected in time."""
        if not self.connected.done():
            text = f"it has not connected within {self._timeout:g} s (start_timeout)"
            self.failure = self._unavailable(text)
            self.close()
            self._kill_process()

    def _kill_process(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _send(self, request: Configure | Launch | Kill) -> None:
        if self.disconnected:
            raise self.failure or self._unavailable("its driver has ended")
        try:
            self._outbox.send(encode(request))
        except OSError as error:
            raise out_of_resources(f"a request to the driver of launcher {self._name!r}", error) from error

    def _unavailable(self, text: str) -> OutOfResources:
        return OutOfResources(f"launcher {self._name!r} is not available: {text}; retry later", retry_after=RETRY_S)

    def _receive_notices(self) -> None:
        while not self.disconnected:
            try:
                data = self._control.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._disconnect()
                return
            self._handle_notice(notices.decode(data))

    def _handle_notice(self, notice: Connected | Failed | Places | Launched | Refused | Exited) -> None:
        match notice:
            case Connected():
                self._timer.cancel()
                if not self.connected.done():
                    self.connected.set_result(notice)
            case Failed(text, is_final):
                self.failure = self._error(text, is_final)
                log.warning("launcher %s failed: %s", self._name, text)
                self.close()
            case Places(places, is_last):
                self._places += places
                if is_last:
                    places_now, self._places = self._places, []
                    self._on_places(places_now)
            case Launched(number):
                if (launched := self._launches.pop(number, None)) is not None and not launched.done():
                    launched.set_result(None)
            case Refused(number, text, is_final):
                launched = self._launches.pop(number, None)
                if launched is not None and not launched.done():
                    launched.set_exception(self._error(text, is_final))
            case Exited(number, code, signum, maxrss, lost):
                if (exit := self._exits.pop(number, None)) is not None and not exit.done():
                    exit.set_result(
                        ExitStatus(code, signum, maxrss) if lost is None else ExitStatus(lost=True, detail=lost)
                    )

    def _error(self, text: str, is_final: bool) -> HostError:
        return ActivationFailed(f"launcher {self._name!r}: {text}") if is_final else self._unavailable(text)

    def _disconnect(self) -> None:
        """Close the control socket, on which the driver exits."""
        self.disconnected = True
        self._outbox.close()
        self._loop.remove_reader(self._control)
        self._control.close()

    async def _wait_and_reap(self) -> None:
        """Wait until it has exited; reap it, and end all that waits for it."""
        await wait_for_exit(self.pid)
        if not self.disconnected:
            self._receive_notices()
        if not self.disconnected:
            self._disconnect()
        self._timer.cancel()
        status = reap(self._process)
        error = self.failure = self.failure or self._unavailable(f"its driver ended ({status.describe()})")
        if not self.connected.done():
            self.connected.set_exception(error.copy())
            self.connected.exception()  # not every driver is waited for
        for launched in self._launches.values():
            if not launched.done():
                launched.set_exception(error.copy())
        for exit in self._exits.values():
            if not exit.done():
                exit.set_result(
                    ExitStatus(lost=True, detail="the driver of its launcher ended, and the worker with it")
                )
        self._output.close()
