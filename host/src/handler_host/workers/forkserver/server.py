"""The process that forks workers: ``python -m handler_host.workers.forkserver.server FD PARENT MODULE...``.

Small, single-threaded, without an event loop. It imports the worker's runtime and
the modules it is told to preload, freezes them, and then does what it is asked
over a control socket: fork, signal, report who has ended. The end of that socket,
or of its parent, is its own end and that of all its workers.
"""

from __future__ import annotations

import errno
import importlib
import os
import selectors
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from handler_host.workers.forkserver.messages import (
    MAX_MESSAGE,
    Exited,
    Fork,
    Forked,
    Refused,
    Signal,
    encode,
    requests,
)
from handler_host.workers.runtime import process as worker


class ForkServer:
    """Serves one host over ``control``, a socket that keeps the bounds of messages."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._workers: dict[int, int] = {}
        """Numbers of the workers that are not reaped yet, by process number."""
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._waker = os.pipe()
        for fd in (self._wakeup, self._waker):
            os.set_blocking(fd, False)
        self._ending = False

    def serve(self) -> None:
        """Run until the host has gone or has closed the control socket."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        while not self._ending:
            for key, _ in self._selector.select():
                if key.fileobj is self._control:
                    self._take_request()
                else:
                    with suppress(BlockingIOError):
                        os.read(self._wakeup, 4096)
            self._reap()
        self._kill_all()

    def _end(self, *_: object) -> None:
        self._ending = True

    def _take_request(self) -> None:
        data, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 2)
        if not data:
            self._ending = True
            return
        request = requests.decode(data)
        if isinstance(request, Signal):
            for pid, number in self._workers.items():
                if number == request.number:
                    with suppress(ProcessLookupError):
                        os.killpg(pid, request.signal)
        else:
            self._fork(request, fds)

    def _fork(self, request: Fork, fds: list[int]) -> None:
        if len(fds) != 2:
            # The kernel drops descriptors for which this process has no number left.
            for fd in fds:
                os.close(fd)
            self._tell(Refused(request.number, errno.EMFILE))
            return
        channel, output = fds
        try:
            parent = os.getpid()
            pid = os.fork()
        except OSError as error:
            self._tell(Refused(request.number, error.errno or errno.EAGAIN))
        else:
            if pid == 0:
                self._become_worker(channel, output, parent)
            with suppress(OSError):
                # In both processes: whoever comes first, no signal can miss the group.
                os.setpgid(pid, pid)
            self._workers[pid] = request.number
            self._tell(Forked(request.number, pid))
        finally:
            os.close(channel)
            os.close(output)

    def _become_worker(self, channel: int, output: int, parent: int) -> NoReturn:
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self._selector.close()
            self._control.close()
            os.close(self._wakeup)
            os.close(self._waker)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            for fd in (null, output):
                if fd > 2:
                    os.close(fd)
            worker.main(channel, parent)
        finally:
            # Nothing that goes wrong in a worker may run on as a second fork server.
            os._exit(1)

    def _reap(self) -> None:
        """Report the workers that have ended, and take what else has been left to this process."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            number = self._workers.get(found.si_pid)
            if number is not None:
                # Not reaped yet, so that its number cannot have been given to another group.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(found.si_pid, signal.SIGKILL)
            _, status, usage = os.wait4(found.si_pid, 0)
            if number is not None:
                del self._workers[found.si_pid]
                ended = os.WIFSIGNALED(status)
                code = None if ended else os.WEXITSTATUS(status)
                self._tell(Exited(number, code, os.WTERMSIG(status) if ended else None, usage.ru_maxrss * 1024))

    def _tell(self, notice: Forked | Refused | Exited) -> None:
        try:
            self._control.sendall(encode(notice))
        except (BrokenPipeError, ConnectionResetError):
            self._ending = True

    def _kill_all(self) -> None:
        for pid in self._workers:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while self._workers:
                pid, _ = os.waitpid(-1, 0)
                self._workers.pop(pid, None)


def preload(modules: list[str]) -> None:
    """Import what workers are going to need; one that cannot be imported is named, and left to them."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                _warn(f"{name}: {error}")
        except Exception as error:  # noqa: BLE001 - a package may raise anything
            _warn(f"{name}: {type(error).__name__}: {error}")
    with suppress(OSError):
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            _warn(f"{', '.join(modules)} left {threads - 1} threads, which no worker has")


def _warn(text: str) -> None:
    # Standard error is a pipe to the host's log.
    sys.stderr.write(f"preload: {text}\n")


def main(arguments: list[str]) -> None:
    """Become the fork server that ``arguments`` describe: socket, parent, modules."""
    fd, parent, modules = int(arguments[0]), int(arguments[1]), arguments[2:]
    worker.set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:
        return
    _adopt_orphans()
    control = socket.socket(fileno=fd)
    server = ForkServer(control)
    # What is there afterwards is left alone by the collector, and so stays shared with the workers.
    with worker.reduced_gc():
        preload(modules)
    server.serve()


def _adopt_orphans() -> None:
    """Become the parent of the workers' orphaned children, so that somebody reaps them (Linux)."""
    if sys.platform != "linux":
        return
    import ctypes  # only here: the host itself does without

    PR_SET_CHILD_SUBREAPER = 36  # noqa: N806 - the kernel's name
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
