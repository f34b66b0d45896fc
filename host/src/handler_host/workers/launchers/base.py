"""Protocols and helpers that all launchers share.

A launcher gives a worker a socket to the host and a pipe for its output. The handler that it loads is
named over the socket, by the first frame.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

import msgspec

from handler_host.plugin.errors import OutOfResources

KEPT_VARIABLES = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANG", "LANGUAGE", "TERM"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"}
    | {"PYTHONPATH", "PYTHONHOME", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONPYCACHEPREFIX"}
    | {"PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
)
"""The variables of the host's environment that a worker keeps, in addition to ``LC_*``."""

EXIT_POLL_INTERVAL = 0.05
"""Seconds between two checks of a process whose exit the kernel cannot signal to the event loop."""

RESOURCE_ERRNOS = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS})
"""Errors of a system that has no process, memory or file descriptor left."""


class ExitStatus(msgspec.Struct, frozen=True):
    """How the process of a worker exited."""

    code: int | None = None
    signal: int | None = None
    maxrss: int | None = None
    """Peak of its resident memory in bytes, if the system reports it."""
    lost: bool = False
    """The status is unknown, because the fork server ended first."""

    def describe(self) -> str:
        """Return the status as the end of a sentence."""
        if self.lost:
            return "its fork server ended, and the worker with it"
        if self.signal is not None:
            with suppress(ValueError):
                return f"killed by {signal.Signals(self.signal).name}"
            return f"killed by signal {self.signal}"
        return f"exit code {self.code}"


class WorkerProcess(Protocol):
    """A launched worker."""

    @property
    def pid(self) -> int:
        """Its process ID."""

    @property
    def socket(self) -> socket.socket:
        """The host's end of the channel."""

    @property
    def output(self) -> int:
        """The read end of its output pipe; -1 if it has none."""

    def kill(self, number: int) -> None:
        """Send signal ``number`` to its process group; has no effect after it is reaped."""

    async def wait(self) -> ExitStatus:
        """Wait until it is reaped and its process group is killed."""


class Launcher(Protocol):
    """Factory for workers of one kind."""

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Launch a worker that waits for its Start frame; raises ``OutOfResources``."""

    async def close(self) -> None:
        """Stop the processes that the launcher has started for itself."""


class WorkerPipes(NamedTuple):
    """The file descriptors of a new worker: a channel and an output pipe, each with the host's and the worker's end."""

    channel: socket.socket
    output: int
    worker_channel: socket.socket
    worker_output: int

    @classmethod
    def open(cls) -> WorkerPipes:
        """Open the channel and the pipe; raises ``OutOfResources``."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise out_of_resources("a socket for a worker", error) from error
        try:
            read, write = os.pipe()
        except OSError as error:
            ours.close()
            theirs.close()
            raise out_of_resources("a pipe for a worker", error) from error
        ours.setblocking(False)
        return cls(ours, read, theirs, write)

    def close_worker_ends(self) -> None:
        """Close the worker's ends in this process."""
        self.worker_channel.close()
        os.close(self.worker_output)

    def close_host_ends(self) -> None:
        """Close the host's ends, if the worker could not be launched."""
        self.channel.close()
        os.close(self.output)


def out_of_resources(what: str, error: OSError) -> OutOfResources:
    """Return the error for a system that refused ``what``."""
    remedy = "raise ulimit -n" if error.errno in (errno.EMFILE, errno.ENFILE) else "raise ulimit -u, or free memory"
    return OutOfResources(f"the system refused {what}: {os.strerror(error.errno or 0)}; {remedy}", retry_after=1.0)


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of workers: locale, path, proxy and TLS settings of the host, and no secret."""
    kept = {name: value for name, value in environ.items() if name in KEPT_VARIABLES or name.startswith("LC_")}
    # pydantic scans the entry points of all distributions, and fails on broken metadata of any of them.
    return {**kept, "PYDANTIC_DISABLE_PLUGINS": "__all__"}


def reap(pid: int) -> ExitStatus:
    """Reap a child that has exited, after killing the rest of its process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
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
