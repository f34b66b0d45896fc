"""The host's end of one fork server: its process, its control socket, its workers."""

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
from handler_host.workers.launchers.base import Exit, WorkerPipes, out_of_resources, reap, wait_for_exit
from handler_host.workers.output_logger import Output

log = logging.getLogger(__name__)


ANSWER_TIMEOUT = 30.0
"""Seconds after which a fork server that does not do what it was asked is given up, and its workers with it."""

END_TIMEOUT = 5.0
"""Seconds that a fork server gets to end by itself."""


class ForkedWorker:
    """A worker that was forked; its exit is told by the fork server."""

    def __init__(
        self, number: int, pid: int, ends: WorkerPipes, server: ForkServerProcess, exit: asyncio.Future[Exit]
    ) -> None:
        self.pid = pid
        self.socket = ends.channel
        self.output = ends.output
        self.exit = exit
        self._number = number
        self._server = server

    def kill(self, number: int) -> None:
        """Send a signal to its process group; without effect once it is reaped."""
        if not self.exit.done():
            self._server.signal(self._number, number)
            if number == signal.SIGKILL:
                # Who is killed ends at once: else it is the fork server that neither kills nor tells.
                self._server.expect(self.exit)

    async def wait(self) -> Exit:
        """Return when it is reaped and its process group is killed."""
        return await asyncio.shield(self.exit)


class ForkServerProcess:
    """One fork server. ``gone`` is set when its process has ended and is reaped.

    ``users`` is for the launcher: how many workers it has, or is about to have.
    Raises ``OutOfResources`` if it cannot be started.
    """

    def __init__(self, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        self.users = 0
        self.lost = False
        """It has ended, or was told to: nothing can be asked of it."""
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._forks: dict[int, asyncio.Future[int]] = {}
        self._exits: dict[int, asyncio.Future[Exit]] = {}
        self._pids: dict[int, int] = {}
        try:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise out_of_resources("a socket for the fork server", error) from error
        try:
            read, write = os.pipe()
        except OSError as error:
            self._control.close()
            theirs.close()
            raise out_of_resources("a pipe for the fork server", error) from error
        command = [
            sys.executable,
            "-P",
            "-m",
            "handler_host.workers.forkserver.server",
            str(theirs.fileno()),
            str(os.getpid()),
            *preload,
        ]
        try:
            # From the loop's own thread: the kernel ends the fork server with the thread that has started it.
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                pass_fds=(theirs.fileno(),),
                process_group=0,
            )
        except OSError as error:
            self._control.close()
            os.close(read)
            raise out_of_resources("a process for the fork server", error) from error
        finally:
            theirs.close()
            os.close(write)
        self.pid = self._process.pid
        self._output = Output(read, "forkserver", lines_per_second=50)
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._take_notices)
        self.gone: asyncio.Task[None] = asyncio.create_task(self._watch(), name="end of the fork server")

    async def fork(self) -> ForkedWorker:
        """Return a new worker; raises ``OutOfResources``."""
        ends = WorkerPipes.make()
        number = next(self._numbers)
        self._forks[number] = forked = self._loop.create_future()
        self._exits[number] = exit = self._loop.create_future()
        try:
            self._ask(Fork(number), [ends.worker_channel.fileno(), ends.worker_output])
            # Not to be left half-way: the process would be there, and nobody's.
            pid = await asyncio.shield(forked)
        except asyncio.CancelledError:
            forked.add_done_callback(lambda _: self.signal(number, signal.SIGKILL))
            self.expect(forked)
            ends.close_ours()
            raise
        except OutOfResources:
            # Refused, or not even asked.
            self._forks.pop(number, None)
            self._exits.pop(number, None)
            ends.close_ours()
            raise
        finally:
            ends.close_workers()
        return ForkedWorker(number, pid, ends, self, exit)

    def signal(self, number: int, signum: int) -> None:
        """Send a signal to the group of a worker."""
        if not self.lost:
            with suppress(OutOfResources):
                self._ask(Signal(number, signum), [])

    def expect(self, response: asyncio.Future[Any]) -> None:
        """Give the fork server up if it has not given this answer in time."""
        timer = self._loop.call_later(ANSWER_TIMEOUT, self._give_up)
        response.add_done_callback(lambda _: timer.cancel())

    def close(self) -> None:
        """Let it end, and its workers with it; ``gone`` tells when."""
        if not self.lost:
            self._lose()
            timer = self._loop.call_later(END_TIMEOUT, self._kill)
            self.gone.add_done_callback(lambda _: timer.cancel())

    def _give_up(self) -> None:
        log.error("the fork server hangs: it is ended, and its workers with it", extra={"fields": {"pid": self.pid}})
        if not self.lost:
            self._lose()
        self._kill()

    def _kill(self) -> None:
        if self._process.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def _ask(self, request: Fork | Signal, fds: list[int]) -> None:
        if self.lost:
            raise OutOfResources("the fork server has ended; ask again", retry_after=1.0)
        try:
            socket.send_fds(self._control, [encode(request)], fds)
        except OSError as error:
            raise out_of_resources("a request to the fork server", error) from error

    def _take_notices(self) -> None:
        while not self.lost:
            try:
                data = self._control.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lose()
                return
            self._take(notices.decode(data))

    def _take(self, notice: Forked | Refused | Exited) -> None:
        if isinstance(notice, Exited):
            self._pids.pop(notice.number, None)
            exit = self._exits.pop(notice.number)
            if not exit.done():
                exit.set_result(Exit(notice.code, notice.signal, notice.maxrss))
            return
        forked = self._forks.pop(notice.number)
        if isinstance(notice, Forked):
            self._pids[notice.number] = notice.pid
            forked.set_result(notice.pid)
        else:
            self._exits.pop(notice.number, None)
            forked.set_exception(out_of_resources("a process for a worker", OSError(notice.errno, "")))

    def _lose(self) -> None:
        """Close the control socket: the end of the fork server, if it was not that which brought this about."""
        self.lost = True
        self._loop.remove_reader(self._control)
        self._control.close()

    async def _watch(self) -> None:
        """Wait for its end, and see to it that nothing and nobody is left behind."""
        await wait_for_exit(self.pid)
        if not self.lost:
            self._take_notices()
        if not self.lost:
            self._lose()
        exit = reap(self.pid)
        self._process.returncode = exit.code if exit.code is not None else -(exit.signal or 0)
        for pid in self._pids.values():
            # The kernel has killed the workers with it; here go those whom the workers had started.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        error = OutOfResources(f"the fork server ended ({exit.describe()}); ask again", retry_after=1.0)
        for forked in self._forks.values():
            if not forked.done():
                forked.set_exception(error.copy())
        for exit_of_worker in self._exits.values():
            if not exit_of_worker.done():
                exit_of_worker.set_result(Exit(lost=True))
        self._output.close()
