"""One worker's process as every launcher provides it: pipes, exit status, reaping."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import msgspec

from handler_host.channel.transports import Connection
from handler_host.workers.host_signals import host_signals_blocked
from handler_host.workers.resource_errors import out_of_resources

EXIT_POLL_INTERVAL = 0.05
"""Seconds between two checks of a process whose exit the kernel cannot signal to the event loop."""


class ExitStatus(msgspec.Struct, frozen=True):
    """How the process of a worker exited."""

    code: int | None = None
    signal: int | None = None
    maxrss: int | None = None
    """Peak of its resident memory in bytes, if the system reports it."""
    lost: bool = False
    """The status is unknown: the fork server ended first, or another machine is gone."""
    detail: str = "its fork server ended, and the worker with it"
    """The known facts about a lost worker."""
    killed_for_memory: bool = False
    """Whether the kernel killed a process of its control group for memory, if it has one of its own."""

    def describe(self) -> str:
        """Return the status as the end of a sentence."""
        if self.lost:
            return self.detail
        if self.signal is not None:
            with suppress(ValueError):
                return f"killed by {signal.Signals(self.signal).name}"
            return f"killed by signal {self.signal}"
        return f"exit code {self.code}"


class WorkerProcess(Protocol):
    """A launched worker."""

    @property
    def pid(self) -> int | None:
        """Its process ID; None on another machine."""

    @property
    def place(self) -> str | None:
        """The machine that it runs on; None for this one."""

    @property
    def connection(self) -> Connection:
        """The host's end of the channel."""

    @property
    def output(self) -> int:
        """The read end of its output pipe; -1 if it has none."""

    def kill(self, number: int) -> None:
        """Send signal ``number`` to its process group; has no effect after it is reaped."""

    async def wait(self) -> ExitStatus:
        """Wait until it is reaped and its process group is killed."""


class ProcessPipes(NamedTuple):
    """The file descriptors of a new process: a channel and an output pipe, each with the host's and the child's end."""

    channel: socket.socket
    output: int
    child_channel: socket.socket
    child_output: int

    @classmethod
    def open(cls, subject: str = "a worker", kind: socket.SocketKind = socket.SOCK_STREAM) -> ProcessPipes:
        """Open the channel and the pipe; raises ``OutOfResources`` that names the ``subject``."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        except OSError as error:
            raise out_of_resources(f"a socket for {subject}", error) from error
        try:
            read, write = os.pipe()
        except OSError as error:
            ours.close()
            theirs.close()
            raise out_of_resources(f"a pipe for {subject}", error) from error
        ours.setblocking(False)
        return cls(ours, read, theirs, write)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start the process in a process group of its own, and close the child's ends in this one.

        If it cannot be started, the host's ends are closed, too, and ``OSError`` is raised. Call it in the thread of
        the event loop: the kernel kills a worker or the fork server when the thread that started it exits.
        """
        try:
            with host_signals_blocked():
                return subprocess.Popen(
                    command,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=self.child_output,
                    stderr=self.child_output,
                    pass_fds=(self.child_channel.fileno(),),
                    process_group=0,
                )
        except OSError:
            self.close_host_ends()
            raise
        finally:
            self.close_child_ends()

    def close_child_ends(self) -> None:
        """Close the child's ends in this process."""
        self.child_channel.close()
        os.close(self.child_output)

    def close_host_ends(self) -> None:
        """Close the host's ends, if the process could not be started."""
        self.channel.close()
        os.close(self.output)


def reap(process: subprocess.Popen[bytes]) -> ExitStatus:
    """Reap a child that has exited, after killing the rest of its process group; sets its ``returncode``."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    # Not by Popen, which reports no usage, but must know that its child is gone.
    process.returncode = os.waitstatus_to_exitcode(status)
    if os.WIFSIGNALED(status):
        return ExitStatus(signal=os.WTERMSIG(status), maxrss=usage.ru_maxrss * 1024)
    return ExitStatus(code=os.WEXITSTATUS(status), maxrss=usage.ru_maxrss * 1024)


async def wait_for_exit(pid: int) -> None:
    """Wait until a child has exited, without reaping it: until then the kernel does not reuse its process ID."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        # Other systems and old kernels lack pidfd, some containers forbid it, and descriptors can run out.
        while not _has_exited(pid):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(EXIT_POLL_INTERVAL)
        return
    loop = asyncio.get_running_loop()
    exited: asyncio.Future[None] = loop.create_future()

    def note_exit() -> None:
        if not exited.done():
            exited.set_result(None)

    loop.add_reader(fd, note_exit)
    try:
        await exited
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _has_exited(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
