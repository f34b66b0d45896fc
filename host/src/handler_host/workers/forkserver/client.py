"""The host's end of a fork server: its process, its control socket, its workers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from handler_host.plugin.errors import OutOfResources
from handler_host.workers.controlled_process import ControlledProcess
from handler_host.workers.forkserver.messages import MAX_MESSAGE, Exited, Fork, Forked, Signal, encode, notices
from handler_host.workers.resource_errors import out_of_resources
from handler_host.workers.worker_process import ExitStatus, ProcessPipes

log = logging.getLogger(__name__)

RESPONSE_TIMEOUT = 30.0
"""Seconds that a fork server has to do what a request asks; after that it is killed, and its workers with it."""

EXIT_TIMEOUT = 5.0
"""Seconds that a fork server has to exit after its control socket is closed."""


class ForkedWorker:
    """A worker that was forked; the fork server reports its exit."""

    place = None

    def __init__(
        self, number: int, pid: int, pipes: ProcessPipes, server: ForkServerProcess, exit: asyncio.Future[ExitStatus]
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


class ForkServerProcess(ControlledProcess):
    """A fork server that this host has started; it imports the modules of ``preload``.

    ``confined``: it applies the measures that all confined workers share, and none of its workers can be without them.
    """

    _max_message = MAX_MESSAGE

    def __init__(self, preload: Sequence[str], environment: Mapping[str, str], *, confined: bool) -> None:
        super().__init__(
            "the fork server",
            "forkserver",
            python=sys.executable,
            module="handler_host.workers.forkserver.server",
            arguments=(str(os.getpid()), str(int(confined)), *preload),
            environment=environment,
            exit_timeout_s=EXIT_TIMEOUT,
        )
        self._numbers = itertools.count(1)
        self._forks: dict[int, asyncio.Future[int]] = {}
        self._exits: dict[int, asyncio.Future[ExitStatus]] = {}
        self._pids: dict[int, int] = {}

    async def fork(self) -> ForkedWorker:
        """Fork a worker; raises ``OutOfResources``."""
        pipes = ProcessPipes.open()
        number = next(self._numbers)
        self._forks[number] = forked = self._loop.create_future()
        self._exits[number] = exit = self._loop.create_future()
        try:
            self._send(Fork(number), [pipes.child_channel.fileno(), pipes.child_output])
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
            pipes.close_child_ends()
        return ForkedWorker(number, pid, pipes, self, exit)

    def signal(self, number: int, signum: int) -> None:
        """Send a signal to the process group of worker ``number``."""
        if not self.disconnected:
            with suppress(OutOfResources):
                self._send(Signal(number, signum), [])

    def require_response(self, response: asyncio.Future[Any]) -> None:
        """Kill the fork server if it has not set ``response`` within ``RESPONSE_TIMEOUT``."""
        timer = self._loop.call_later(RESPONSE_TIMEOUT, self._kill_hung, response)
        response.add_done_callback(lambda _: timer.cancel())

    def _kill_hung(self, response: asyncio.Future[Any]) -> None:
        if response.done():
            return  # in this turn of the loop: the host was stopped meanwhile
        log.error("the fork server hangs: killing it and its workers", extra={"fields": {"pid": self.pid}})
        if not self.disconnected:
            self._disconnect()
        self._kill()

    def _send(self, request: Fork | Signal, fds: list[int]) -> None:
        if self.disconnected:
            raise OutOfResources("the fork server has ended; try again", retry_after=1.0)
        try:
            socket.send_fds(self._control, [encode(request)], fds)
        except OSError as error:
            raise out_of_resources("a request to the fork server", error) from error

    def _handle(self, data: bytes) -> None:
        notice = notices.decode(data)
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

    def _end_requests(self, status: ExitStatus) -> None:
        """End all requests in flight, and kill what the workers have left."""
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
