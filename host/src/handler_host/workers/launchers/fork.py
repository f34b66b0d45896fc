"""Launcher that forks workers from a fork server."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handler_host.workers.forkserver.client import ForkServerProcess
    from handler_host.workers.worker_process import WorkerProcess


class ForkLauncher:
    """Launcher that forks workers from a fork server, which it starts on demand and stops when it is idle.

    ``preload`` names the modules that the fork server imports, ``linger`` is the time in seconds that it
    stays without a worker, ``confined`` is whether it applies the measures that all confined workers share.
    """

    def __init__(
        self, preload: Sequence[str], linger: float, environment: Mapping[str, str], *, confined: bool
    ) -> None:
        self._preload = tuple(preload)
        self._confined = confined
        self._linger = linger
        self._environment = dict(environment)
        self._current: ForkServerProcess | None = None
        self._servers: set[ForkServerProcess] = set()
        self._idle_timer: asyncio.TimerHandle | None = None

    @property
    def pids(self) -> list[int]:
        """Process IDs of the fork servers: the current one, and retired ones that still have workers."""
        return [server.pid for server in self._servers]

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Fork a worker; raises ``OutOfResources``."""
        server = self._current_server()
        server.users += 1
        try:
            worker = await server.fork()
        except BaseException:
            self._release(server)
            raise
        worker.exit.add_done_callback(lambda _: self._release(server))
        return worker

    def reconfigure(self, preload: Sequence[str], linger: float, *, confined: bool) -> None:
        """Use these settings from now on; a fork server that was started with others is retired."""
        self._linger = linger
        if (tuple(preload), confined) != (self._preload, self._confined):
            self._preload, self._confined = tuple(preload), confined
            self.retire()

    def stop_idle(self) -> None:
        """Stop the fork server now if it has no worker, for example after a check that needed one."""
        if self._current is not None and not self._current.users:
            self.retire()

    def retire(self) -> None:
        """Use a fresh fork server from now on; the current one stops with its last worker."""
        server, self._current = self._current, None
        if server is not None and not server.users:
            server.close()

    async def close(self) -> None:
        """Stop all fork servers, and with them the remaining workers."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._current = None
        for server in list(self._servers):
            server.close()
            await server.exited

    def _current_server(self) -> ForkServerProcess:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._current is None or self._current.disconnected:
            from handler_host.workers.forkserver.client import ForkServerProcess  # with the first worker

            self._current = ForkServerProcess(self._preload, self._environment, confined=self._confined)
            self._servers.add(self._current)
            self._current.exited.add_done_callback(functools.partial(self._forget, self._current))
        return self._current

    def _forget(self, server: ForkServerProcess, _: object) -> None:
        self._servers.discard(server)

    def _release(self, server: ForkServerProcess) -> None:
        server.users -= 1
        if server.users or server.disconnected:
            return
        if server is not self._current:
            server.close()
        elif self._idle_timer is None:
            self._idle_timer = asyncio.get_running_loop().call_later(self._linger, self._expire)

    def _expire(self) -> None:
        self._idle_timer = None
        self.retire()
