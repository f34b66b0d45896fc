"""The host's end of an engine's driver: its process, its control socket, its workers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from handler_host.config.launchers import LauncherConfig
from handler_host.memory.place import PlaceReport
from handler_host.plugin.errors import HostError, OutOfResources, PermanentActivationFailure
from handler_host.workers.controlled_process import ControlledProcess
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
from handler_host.workers.resource_errors import out_of_resources
from handler_host.workers.worker_process import ExitStatus

log = logging.getLogger(__name__)

EXIT_TIMEOUT = 10.0
"""Seconds that a driver has to exit after its control socket is closed."""

RETRY_S = 5.0
"""``Retry-After`` while an engine is not reachable."""


class DriverProcess(ControlledProcess):
    """The driver of launcher ``name``; ``on_places`` is called with all machines whenever they change."""

    _max_message = MAX_MESSAGE

    def __init__(
        self,
        name: str,
        options: bytes,
        config: LauncherConfig,
        environment: Mapping[str, str],
        on_places: Callable[[list[PlaceReport]], None],
    ) -> None:
        python = str(config.python or sys.executable)
        super().__init__(
            f"the driver of launcher {name!r} ({python})",
            name,
            python=python,
            module="handler_host.workers.remote.driver",
            environment=environment,
            exit_timeout_s=EXIT_TIMEOUT,
        )
        self.failure: HostError | None = None
        """Why it has ended, if the engine is the reason."""
        self._name = name
        self._timeout = config.start_timeout
        self.connected: asyncio.Future[Connected] = self._loop.create_future()
        self._numbers = itertools.count(1)
        self._launches: dict[int, asyncio.Future[None]] = {}
        self._exits: dict[int, asyncio.Future[ExitStatus]] = {}
        self._places: list[PlaceReport] = []
        self._on_places = on_places
        self._outbox = Outbox(self._control)
        self._timer = self._loop.call_later(self._timeout, self._expire)
        self._send(Configure(name, options, config.tls))

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

    def _expire(self) -> None:
        """End a driver that has not connected in time."""
        if not self.connected.done():
            text = f"it has not connected within {self._timeout:g} s (start_timeout)"
            self.failure = self._unavailable(text)
            self.close()
            self._kill()

    def _send(self, request: Configure | Launch | Kill) -> None:
        if self.disconnected:
            raise self.failure or self._unavailable("its driver has ended")
        try:
            self._outbox.send(encode(request))
        except OSError as error:
            raise out_of_resources(f"a request to the driver of launcher {self._name!r}", error) from error

    def _unavailable(self, text: str) -> OutOfResources:
        return OutOfResources(f"launcher {self._name!r} is not available: {text}; retry later", retry_after=RETRY_S)

    def _handle(self, data: bytes) -> None:
        notice = notices.decode(data)
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
        return PermanentActivationFailure(f"launcher {self._name!r}: {text}") if is_final else self._unavailable(text)

    def _disconnect(self) -> None:
        self._outbox.close()
        super()._disconnect()

    def _end_requests(self, status: ExitStatus) -> None:
        self._timer.cancel()
        text = f"its driver ended ({status.describe()}); look at its output in the log, or run `doctor {self._name}`"
        error = self.failure = self.failure or self._unavailable(text)
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
