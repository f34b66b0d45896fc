"""The host's end of a fork server: its process, its control socket, its workers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from handler_host.plugin.errors import OutOfResources
from handler_host.workers.forkserver.messages import MAX_MESSAGE, Exited, Fork, Forked, Refused, Signal, encode, notices
from handler_host.workers.host_signals import host_signals_blocked
from handler_host.workers.output_logger import OutputLogger
from handler_host.workers.worker_process import ExitStatus, WorkerPipes, out_of_resources, reap, wait_for_exit

log = logging.getLogger(__name__)

RESPONSE_TIMEOUT = 30.0
"""Seconds that a fork server has to do what a request asks; after that it is killed, and its workers with it."""

EXIT_TIMEOUT = 5.0
"""Seconds that a fork server has to exit after its control socket is closed."""


class ForkedWorker:
    """A worker that was forked; the fork server reports its exit."""

    place = None

    def __init__(
        self, number: int, pid: int, pipes: WorkerPipes, server: ForkServerProcess, exit: asyncio.Future[ExitStatus]
    ) -> None:
        self.pid = pid
        self.connection = pipes.channel
        self.output = pipes.output
        self.exit = exit
        self._number = number
        self._server = server

    def kill(self, number: int) -> None:
        """Send signal ``number`` to its process group; has no effect after it is reaped."""
        if not self.exit.done():
            self._server.signal(self._number, number)
            if number == signal.SIGKILL:
                # A killed worker exits at once, so a missing report means that the fork server hangs.
                self._server.require_response(self.exit)

    async def wait(self) -> ExitStatus:
        """Wait until it is reaped and its process group is killed."""
        return await asyncio.shield(self.exit)


class ForkServerProcess:
    """A fork server that this host has started. ``exited`` is set when its process has exited and is reaped.

    ``users`` belongs to the launcher: the number of workers that the fork server has, or is about to have.
    Raises ``OutOfResources`` if it cannot be started.
    """

    def __init__(self, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        self.users = 0
        self.disconnected = False
        """It has exited or is about to: it accepts no further request."""
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._forks: dict[int, asyncio.Future[int]] = {}
        self._exits: dict[int, asyncio.Future[ExitStatus]] = {}
        self._pids: dict[int, int] = {}
        self._control, output = self._start(preload, environment)
        self.pid = self._process.pid
        self._output = OutputLogger(output, "forkserver", lines_per_second=50)
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._receive_notices)
        self.exited: asyncio.Task[None] = asyncio.create_task(self._wait_and_reap(), name="exit of the fork server")

    def _start(self, preload: Sequence[str], environment: Mapping[str, str]) -> tuple[socket.socket, int]:
        """Start the process; return the host's ends of its control socket and of its output pipe."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise out_of_resources("a socket for the fork server", error) from error
        try:
            read, write = os.pipe()
        except OSError as error:
            ours.close()
            theirs.close()
            raise out_of_resources("a pipe for the fork server", error) from error
        module = "handler_host.workers.forkserver.server"
        try:
            # In the thread of the event loop: the kernel kills the fork server when the thread that started it exits.
            with host_signals_blocked():
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid()), *preload],
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
            raise out_of_resources("a process for the fork server", error) from error
        finally:
            theirs.close()
            os.close(write)
        return ours, read

    async def fork(self) -> ForkedWorker:
        """Fork a worker; raises ``OutOfResources``."""
        pipes = WorkerPipes.open()
        number = next(self._numbers)
        self._forks[number] = forked = self._loop.create_future()
        self._exits[number] = exit = self._loop.create_future()
        try:
            self._send(Fork(number), [pipes.worker_channel.fileno(), pipes.worker_output])
            # Shielded: after a cancellation in between, the process would exist and belong to no task.
            pid = await asyncio.shield(forked)
        except asyncio.CancelledError:
            forked.add_done_callback(lambda _: self.signal(number, signal.SIGKILL))
            self.require_response(forked)
            pipes.close_host_ends()
            raise
        except OutOfResources:
            # Refused, or not even requested.
            self._forks.pop(number, None)
            self._exits.pop(number, None)
            pipes.close_host_ends()
            raise
        finally:
            pipes.close_worker_ends()
        return ForkedWorker(number, pid, pipes, self, exit)

    def signal(self, number: int, signum: int) -> None:
        """Send a signal to the process group of worker ``number``."""
        if not self.disconnected:
            with suppress(OutOfResources):
                self._send(Signal(number, signum), [])

    def require_response(self, response: asyncio.Future[Any]) -> None:
        """Kill the fork server if it has not set ``response`` within ``RESPONSE_TIMEOUT``."""
        timer = self._loop.call_later(RESPONSE_TIMEOUT, self._kill_hung)
        response.add_done_callback(lambda _: timer.cancel())

    def close(self) -> None:
        """Stop it, and its workers with it; ``exited`` is set when that is done."""
        if not self.disconnected:
            self._disconnect()
            timer = self._loop.call_later(EXIT_TIMEOUT, self._kill)
            self.exited.add_done_callback(lambda _: timer.cancel())

    def _kill_hung(self) -> None:
        log.error("the fork server hangs: killing it and its workers", extra={"fields": {"pid": self.pid}})
        if not self.disconnected:
            self._disconnect()
        self._kill()

    def _kill(self) -> None:
        if self._process.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def _send(self, request: Fork | Signal, fds: list[int]) -> None:
        if self.disconnected:
            raise OutOfResources("the fork server has ended; try again", retry_after=1.0)
        try:
            socket.send_fds(self._control, [encode(request)], fds)
        except OSError as error:
            raise out_of_resources("a request to the fork server", error) from error

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

    def _handle_notice(self, notice: Forked | Refused | Exited) -> None:
        if isinstance(notice, Exited):
            self._pids.pop(notice.number, None)
            exit = self._exits.pop(notice.number)
            if not exit.done():
                exit.set_result(ExitStatus(notice.code, notice.signal, notice.maxrss))
            return
        forked = self._forks.pop(notice.number)
        if isinstance(notice, Forked):
            self._pids[notice.number] = notice.pid
            forked.set_result(notice.pid)
        else:
            self._exits.pop(notice.number, None)
            forked.set_exception(out_of_resources("a process for a worker", OSError(notice.errno, "")))

    def _disconnect(self) -> None:
        """Close the control socket, on which the fork server exits."""
        self.disconnected = True
        self._loop.remove_reader(self._control)
        self._control.close()

    async def _wait_and_reap(self) -> None:
        """Wait until it has exited; reap it, kill what its workers have left, and end all requests in flight."""
        await wait_for_exit(self.pid)
        if not self.disconnected:
            self._receive_notices()
        if not self.disconnected:
            self._disconnect()
        status = reap(self._process)
        for pid in self._pids.values():
            # The kernel has killed the workers with the fork server, but not the processes that they had started.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        error = OutOfResources(f"the fork server ended ({status.describe()}); try again", retry_after=1.0)
        for forked in self._forks.values():
            if not forked.done():
                forked.set_exception(error.copy())
        for exit_of_worker in self._exits.values():
            if not exit_of_worker.done():
                exit_of_worker.set_result(ExitStatus(lost=True))
        self._output.close()
