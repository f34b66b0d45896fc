"""Launcher that forks workers from a fork server."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence

from handler_host.workers.forkserver.client import ForkServerProcess
from handler_host.workers.launchers.base import WorkerProcess


class ForkLauncher:
    """Forks workers from a fork server, which is started on demand and goes when it is of no use.

    ``preload`` names the modules that the fork server imports, ``linger`` is how many
    seconds it stays without a worker.
    """

    def __init__(self, preload: Sequence[str], linger: float, environment: Mapping[str, str]) -> None:
        self._preload = tuple(preload)
        self._linger = linger
        self._environment = dict(environment)
        self._current: ForkServerProcess | None = None
        self._servers: set[ForkServerProcess] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pids(self) -> list[int]:
        """The process numbers of the fork servers: one, and those that are retired but still have workers."""
        return [server.pid for server in self._servers]

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Return a forked worker; raises ``OutOfResources``."""
        server = self._server()
        server.users += 1
        try:
            worker = await server.fork()
        except BaseException:
            self._done_with(server)
            raise
        worker.exit.add_done_callback(lambda _: self._done_with(server))
        return worker

    def reconfigure(self, preload: Sequence[str], linger: float) -> None:
        """Preload and linger like this from now on; what has preloaded something else is used no more."""
        self._linger = linger
        if tuple(preload) != self._preload:
            self._preload = tuple(preload)
            self.retire()

    def rest(self) -> None:
        """Let the fork server go at once if it has no worker: it lingers for dispatches, not for a check."""
        if self._current is not None and not self._current.users:
            self.retire()

    def retire(self) -> None:
        """Use a fresh fork server from now on; this one goes with its last worker."""
        server, self._current = self._current, None
        if server is not None and not server.users:
            server.close()

    async def close(self) -> None:
        """End all fork servers, and with them the workers that are left."""
        if self._timer is not None:
            self._timer.cancel()
        self._current = None
        for server in list(self._servers):
            server.close()
            await server.gone

    def _server(self) -> ForkServerProcess:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._current is None or self._current.lost:
            self._current = ForkServerProcess(self._preload, self._environment)
            self._servers.add(self._current)
            self._current.gone.add_done_callback(functools.partial(self._forget, self._current))
        return self._current

    def _forget(self, server: ForkServerProcess, _: object) -> None:
        self._servers.discard(server)

    def _done_with(self, server: ForkServerProcess) -> None:
        server.users -= 1
        if server.users or server.lost:
            return
        if server is not self._current:
            server.close()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._linger, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.retire()
