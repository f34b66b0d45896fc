"""How workers come into being: what all launchers have in common.

A launcher gives a worker a socket to the host and a pipe for what it prints; which
handler to load is told over the socket. ``handler_host.workers.launchers.launchers`` has the three of them.
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

KEPT = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANG", "LANGUAGE", "TERM"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"}
    | {"PYTHONPATH", "PYTHONHOME", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONPYCACHEPREFIX"}
    | {"PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
)
"""The variables of the host's environment that a worker keeps, beside ``LC_*``."""

LOOK_INTERVAL = 0.05
"""Seconds between two looks at a process whose end nobody tells."""

SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS})
"""What the system says when there is no process, memory or descriptor left."""


class Exit(msgspec.Struct, frozen=True):
    """How a worker's process ended."""

    code: int | None = None
    signal: int | None = None
    maxrss: int | None = None
    """The most resident memory it ever had, in bytes, where the system tells."""
    lost: bool = False
    """Nobody could see how: the fork server ended before it."""

    def describe(self) -> str:
        """Return it in words."""
        if self.lost:
            return "its fork server ended, and it with it"
        if self.signal is not None:
            with suppress(ValueError):
                return f"killed by {signal.Signals(self.signal).name}"
            return f"killed by signal {self.signal}"
        return f"exit code {self.code}"


class WorkerProcess(Protocol):
    """A launched worker."""

    @property
    def pid(self) -> int:
        """Its process number."""

    @property
    def socket(self) -> socket.socket:
        """The host's end of the channel."""

    @property
    def output(self) -> int:
        """The read end of what it prints; -1 if there is none."""

    def kill(self, number: int) -> None:
        """Send a signal to its process group; without effect once it is reaped."""

    async def wait(self) -> Exit:
        """Return when it is reaped and its process group is killed."""


class Launcher(Protocol):
    """Makes workers of one kind."""

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Return a worker that waits for its Start frame; raises ``OutOfResources``."""

    async def close(self) -> None:
        """End what the launcher itself has started."""


class WorkerPipes(NamedTuple):
    """The descriptors of a new worker: the host's two, and the worker's two."""

    channel: socket.socket
    output: int
    worker_channel: socket.socket
    worker_output: int

    @classmethod
    def make(cls) -> WorkerPipes:
        """Open them; raises ``OutOfResources``."""
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

    def close_workers(self) -> None:
        """Close the worker's ends in this process."""
        self.worker_channel.close()
        os.close(self.worker_output)

    def close_ours(self) -> None:
        """Close the host's ends, of a worker that did not come into being."""
        self.channel.close()
        os.close(self.output)


def out_of_resources(what: str, error: OSError) -> OutOfResources:
    """Return the error for a system that refused ``what``."""
    remedy = "raise ulimit -n" if error.errno in (errno.EMFILE, errno.ENFILE) else "raise ulimit -u, or free memory"
    return OutOfResources(f"the system refused {what}: {os.strerror(error.errno or 0)}; {remedy}", retry_after=1.0)


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what workers see of the host's environment: locale, path, proxy and TLS settings; no secret."""
    kept = {name: value for name, value in environ.items() if name in KEPT or name.startswith("LC_")}
    # pydantic scans the entry points of everything that is installed, and fails on other people's broken metadata.
    return {**kept, "PYDANTIC_DISABLE_PLUGINS": "__all__"}


def reap(pid: int) -> Exit:
    """Reap a child that has ended, after killing what is left of its process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    if os.WIFSIGNALED(status):
        return Exit(signal=os.WTERMSIG(status), maxrss=usage.ru_maxrss * 1024)
    return Exit(code=os.WEXITSTATUS(status), maxrss=usage.ru_maxrss * 1024)


async def wait_for_exit(pid: int) -> None:
    """Wait until a child has ended; it is not reaped yet, so that its number is still its own."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        # Other systems and old kernels do not have it, some containers forbid it, and descriptors run out.
        while not _has_ended(pid):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(LOOK_INTERVAL)
        return
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not over.done():
            over.set_result(None)

    loop.add_reader(fd, note)
    try:
        await over
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
