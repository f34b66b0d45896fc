"""The three launchers: fork from a warm process, exec an interpreter, run inline."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from host.errors import ActivationFailed
from host.processes.fork_client import ForkServerProcess
from host.processes.launcher import SHORTAGES, Ends, Exit, WorkerProcess, ended, reap, shortage


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


class _ExecWorker:
    """A worker in an interpreter of its own, a child of the host."""

    def __init__(self, process: subprocess.Popen[bytes], ends: Ends) -> None:
        self.pid = process.pid
        self.socket = ends.channel
        self.output = ends.output
        self._process = process
        self._exit: asyncio.Future[Exit] = asyncio.ensure_future(self._watch())

    def kill(self, number: int) -> None:
        """Send a signal to its process group; without effect once it is reaped."""
        if not self._exit.done():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def wait(self) -> Exit:
        """Return when it is reaped and its process group is killed."""
        return await asyncio.shield(self._exit)

    async def _watch(self) -> Exit:
        await ended(self.pid)
        exit = reap(self.pid)
        self._process.returncode = exit.code if exit.code is not None else -(exit.signal or 0)
        return exit


class ExecLauncher:
    """Starts each worker in a fresh interpreter: ``python``, or the host's own.

    That interpreter's environment needs ``handler-host`` (plugins depend on it), of
    the same version of the protocol.
    """

    def __init__(self, python: str | None = None) -> None:
        self._python = python or sys.executable

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Return a worker that was exec'ed; raises ``OutOfResources``."""
        ends = Ends.make()
        channel = ends.worker_channel.fileno()
        command = [self._python, "-P", "-m", "host.worker.process", str(channel), str(os.getpid())]
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - about a millisecond, and its parent has to be this thread
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=ends.worker_output,
                stderr=ends.worker_output,
                pass_fds=(channel,),
                process_group=0,
            )
        except OSError as error:
            ends.close_ours()
            if error.errno in SHORTAGES:
                raise shortage("a process for a worker", error) from error
            raise ActivationFailed(
                f"the interpreter {self._python!r} cannot be started: {error.strerror}; see 'python' of the handler"
            ) from error
        finally:
            ends.close_workers()
        return _ExecWorker(process, ends)

    async def close(self) -> None:
        """Do nothing: there is nothing beside the workers."""


class _InlineWorker:
    """A worker that is a task in the host's own process."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        # Imported on demand: a host without inline handlers does not carry the worker's code.
        from host.worker.process import serve

        self.pid = os.getpid()
        self.socket = ours
        self.output = -1
        self._task = asyncio.create_task(serve(theirs, inline=True), name="inline worker")

    def kill(self, number: int) -> None:
        """Cancel it; a plugin that blocks the loop cannot be killed inline."""
        self._task.cancel()

    async def wait(self) -> Exit:
        """Return when its task has ended."""
        await asyncio.wait({self._task})
        if self._task.cancelled():
            return Exit(code=1)
        return Exit(code=1 if self._task.exception() is not None else self._task.result())


class InlineLauncher:
    """Runs handlers in the host's process: for debugging. It gives no memory back."""

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Return a worker that is a task; raises ``OutOfResources``."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise shortage("a socket for a worker", error) from error
        ours.setblocking(False)
        theirs.setblocking(False)
        return _InlineWorker(ours, theirs)

    async def close(self) -> None:
        """Do nothing: there is nothing beside the workers."""
