"""A process that serves the host over a control socket: the fork server, or the driver of an engine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import ClassVar

from handler_host.workers.output_logger import OutputLogger
from handler_host.workers.resource_errors import out_of_resources
from handler_host.workers.worker_process import ExitStatus, ProcessPipes, reap, wait_for_exit


class ControlledProcess(ABC):
    """The host's end of such a process. ``exited`` is set when it has exited and is reaped.

    It runs ``module`` with the file descriptor of its control socket and ``arguments`` behind it, and exits when the
    socket closes; ``exit_timeout_s`` later it is killed. ``subject`` names it in errors, ``log_name`` in the log.
    ``users`` belongs to its launcher: the number of workers that it has, or is about to have.
    Raises ``OutOfResources`` if it cannot be started.
    """

    _max_message: ClassVar[int]
    """Longest notice in bytes."""

    def __init__(
        self,
        subject: str,
        log_name: str,
        *,
        python: str,
        module: str,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str],
        exit_timeout_s: float,
    ) -> None:
        self.users = 0
        self.disconnected = False
        """It has exited or is about to: it accepts no further request."""
        self._loop = asyncio.get_running_loop()
        self._exit_timeout_s = exit_timeout_s
        pipes = ProcessPipes.open(subject, socket.SOCK_SEQPACKET)
        command = [python, "-P", "-m", module, str(pipes.child_channel.fileno()), *arguments]
        try:
            self._process = pipes.start(command, environment)
        except OSError as error:
            raise out_of_resources(f"a process for {subject}", error) from error
        self.pid = self._process.pid
        self._control = pipes.channel
        self._output = OutputLogger(pipes.output, log_name, lines_per_second=50)
        self._loop.add_reader(self._control, self._receive)
        self.exited: asyncio.Task[None] = asyncio.create_task(self._wait_and_reap(), name=f"exit of {subject}")

    @abstractmethod
    def _handle(self, data: bytes) -> None:
        """Handle a notice of the process."""

    @abstractmethod
    def _end_requests(self, status: ExitStatus) -> None:
        """End all requests in flight: the process has exited."""

    def close(self) -> None:
        """Stop it, and its workers with it; ``exited`` is set when that is done."""
        if not self.disconnected:
            self._disconnect()
            timer = self._loop.call_later(self._exit_timeout_s, self._kill)
            self.exited.add_done_callback(lambda _: timer.cancel())

    def _kill(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _receive(self) -> None:
        while not self.disconnected:
            try:
                data = self._control.recv(self._max_message)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._disconnect()
                return
            self._handle(data)

    def _disconnect(self) -> None:
        """Close the control socket, on which the process exits."""
        self.disconnected = True
        self._loop.remove_reader(self._control)
        self._control.close()

    async def _wait_and_reap(self) -> None:
        """Wait until it has exited; reap it, and end all requests in flight."""
        await wait_for_exit(self.pid)
        if not self.disconnected:
            self._receive()
        if not self.disconnected:
            self._disconnect()
        self._end_requests(reap(self._process))
        self._output.close()
