"""Launcher of workers on other machines, by an engine whose driver runs in a process of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from typing import Any

import msgspec

from handler_host.config.launchers import launcher_config, launcher_options
from handler_host.config.listen import parse_listen
from handler_host.memory.places import PlacesBudget
from handler_host.plugin.errors import OutOfResources
from handler_host.workers.remote.connection import HostAddress, public_part, server_context
from handler_host.workers.remote.driver_client import DriverProcess
from handler_host.workers.remote.listener import WorkerListener, withdraw
from handler_host.workers.remote.messages import Launch
from handler_host.workers.worker_process import ExitStatus, WorkerProcess

SELF_END_GRACE = 5.0
"""Seconds after ``workers.hang_after`` in which a worker without a host has ended itself."""


class RemoteWorker:
    """A worker on another machine.

    If its engine does not confirm a kill, the worker counts as lost ``self_end_s`` seconds later: by then its own
    watchdog has ended it.
    """

    pid = None
    output = -1

    def __init__(
        self,
        connection: asyncio.Transport,
        place: str,
        number: int,
        driver: DriverProcess,
        exit: asyncio.Future[ExitStatus],
        self_end_s: float,
    ) -> None:
        self.connection = connection
        self.place = place
        self._number = number
        self._driver = driver
        self._exit = exit
        self._self_end_s = self_end_s
        self._is_killed = False

    def kill(self, number: int) -> None:
        """Kill it, for SIGKILL; other signals have no effect, as workers ignore them."""
        if number != signal.SIGKILL or self._exit.done() or self._is_killed:
            return
        self._is_killed = True
        # Also without a driver: a worker ends when its channel closes.
        self.connection.abort()
        self._driver.kill(self._number)
        timer = asyncio.get_running_loop().call_later(self._self_end_s, self._mark_lost)
        self._exit.add_done_callback(lambda _: timer.cancel())

    async def wait(self) -> ExitStatus:
        """Wait until the engine reports its exit, or it must have ended by itself."""
        return await asyncio.shield(self._exit)

    def _mark_lost(self) -> None:
        if not self._exit.done():
            text = f"{self.place} has not confirmed its end; it ends itself without its host (workers.hang_after)"
            self._exit.set_result(ExitStatus(lost=True, detail=text))


class RemoteLauncher:
    """Launcher that starts workers through the engine of ``[launchers.NAME]``, on the places of ``budget``.

    The driver starts on demand, and stops ``linger`` seconds after its last worker.
    """

    def __init__(
        self,
        name: str,
        keys: dict[str, Any],
        budget: PlacesBudget,
        environment: Mapping[str, str],
        *,
        hang_after: float,
        linger: float,
    ) -> None:
        self._name = name
        self._config = launcher_config(keys)
        self._options = launcher_options(keys)
        self._budget = budget
        self._environment = environment
        self._self_end_s = hang_after + SELF_END_GRACE
        self._linger = linger
        self._driver: DriverProcess | None = None
        self._drivers: set[DriverProcess] = set()
        self._listener: WorkerListener | None = None
        self._certificate: str | None = None
        self._address = ""
        self._idle_timer: asyncio.TimerHandle | None = None
        self._connecting = asyncio.Lock()
        budget.connect = self.connect

    @property
    def pids(self) -> list[int]:
        """Process IDs of the drivers."""
        return [driver.pid for driver in self._drivers]

    @property
    def port(self) -> int | None:
        """The port on which workers connect; None before the first one."""
        return self._listener.port if self._listener is not None else None

    async def connect(self) -> None:
        """Connect to the engine, unless that is done; raises ``HostError``."""
        await self._connected_driver()

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Start a worker on its place, and wait for its connection; raises ``HostError``."""
        budget = self._budget
        place = budget.place_of(handler, generation)
        assert place is not None, "reserved before the launch"
        driver = await self._connected_driver()
        assert self._listener is not None, "listens since the connection"
        driver.users += 1
        token, connection = self._listener.expect()
        address = HostAddress(self._address, self._listener.port, token, self._certificate)
        size, resources = budget.size_of(handler, generation), dict(budget.resources_of(handler, generation))
        text = msgspec.json.encode(address)
        try:
            number, exit = await driver.launch(lambda number: Launch(number, handler, place, size, resources, text))
            exit.add_done_callback(lambda _: self._release(driver))
        except BaseException:
            withdraw(connection)
            self._release(driver)
            raise
        try:
            transport = await self._wait_for_connection(connection, exit, place)
        except BaseException:
            withdraw(connection)
            driver.kill(number)
            raise
        return RemoteWorker(transport, place, number, driver, exit, self._self_end_s)

    async def close(self) -> None:
        """Stop the driver, and with it the remaining workers."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._listener is not None:
            await self._listener.close()
        self._driver = None
        for driver in list(self._drivers):
            driver.close()
            await driver.exited

    async def _wait_for_connection(
        self, connection: asyncio.Future[asyncio.Transport], exit: asyncio.Future[ExitStatus], place: str
    ) -> asyncio.Transport:
        """Return the connection of a worker that was started; raises ``OutOfResources`` if it does not come."""
        timeout = self._config.start_timeout
        outcomes: set[asyncio.Future[Any]] = {connection, exit}
        await asyncio.wait(outcomes, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if connection.done():
            return connection.result()
        reason = exit.result().describe() if exit.done() else f"no connection within {timeout:g} s (start_timeout)"
        assert self._listener is not None, "listens since the connection"
        raise OutOfResources(
            f"the worker on {place} did not connect to {self._address}:{self._listener.port}: {reason}; check that "
            "the address is reachable from there (launchers.NAME.advertise) and handler-host is installed there",
            retry_after=timeout,
        )

    async def _connected_driver(self) -> DriverProcess:
        """Return the driver, connected; start it if necessary."""
        async with self._connecting:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
                self._idle_timer = None
            driver = self._driver
            if driver is None or driver.disconnected:
                driver = self._driver = DriverProcess(
                    self._name, self._options, self._config, self._environment, self._budget.update
                )
                self._drivers.add(driver)
                driver.exited.add_done_callback(lambda _: self._forget(driver))
                if self._listener is not None:
                    await self._listener.close()
                    self._listener = None
            connected = await asyncio.shield(driver.connected)
            if not driver.users:
                self._start_idle_timer()
            if self._listener is None:
                tls = server_context(connected.certificate) if connected.certificate else None
                listener = WorkerListener(parse_listen(self._config.listen), tls)
                await listener.start()
                self._listener = listener
                self._certificate = public_part(connected.certificate) if connected.certificate else None
                self._address = self._config.advertise or connected.address
            return driver

    def _forget(self, driver: DriverProcess) -> None:
        self._drivers.discard(driver)
        if self._driver in (None, driver):
            self._budget.update([])

    def _release(self, driver: DriverProcess) -> None:
        driver.users -= 1
        if not driver.users and driver is self._driver and not driver.disconnected:
            self._start_idle_timer()

    def _start_idle_timer(self) -> None:
        if self._idle_timer is None:
            self._idle_timer = asyncio.get_running_loop().call_later(self._linger, self._expire)

    def _expire(self) -> None:
        self._idle_timer = None
        driver = self._driver
        if driver is None or driver.users:
            return
        if self._budget.waiting:
            self._start_idle_timer()
            return
        self._driver = None
        driver.close()
        self._budget.update([])
