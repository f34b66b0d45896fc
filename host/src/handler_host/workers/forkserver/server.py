"""The process that forks workers: ``python -m handler_host.workers.forkserver.server FD PARENT CONFINED MODULE...``.

Small, single-threaded, without an event loop. It imports the worker's runtime and the modules to preload,
freezes them, and then serves the requests of a control socket: fork a worker, signal a worker. It reports
the exit of each worker. When the socket or the parent process ends, it kills its workers and exits.
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

from handler_host.workers.child_processes import child_states, signal_worker
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
from handler_host.workers.host_signals import ignore_host_signals
from handler_host.workers.runtime import process as worker
from handler_host.workers.runtime.confinement import adopt_descendants, confine_process
from handler_host.workers.runtime.file_rules import shared_paths
from handler_host.workers.runtime.process_setup import reduced_gc, set_parent_death_signal

OPTIONAL = ("pydantic", "aiohttp")
"""The default of the setting ``preload``: not every host has it installed."""


class ForkServer:
    """Fork server of the host with process ID ``parent``.

    It serves requests of ``control``, a socket that keeps the boundaries of messages.
    """

    def __init__(self, control: socket.socket, parent: int) -> None:
        self._control = control
        self._parent = parent
        self._workers: dict[int, int] = {}
        """Numbers of the workers that are not reaped yet, by process ID."""
        self._preloaded: set[int] = set()
        """Children that preloaded modules have started."""
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._waker = os.pipe()
        for fd in (self._wakeup, self._waker):
            os.set_blocking(fd, False)
        self._ending = False

    def serve(self) -> None:
        """Serve until the host exits or closes the control socket; then kill all workers."""
        self._handle_signals()
        self._preloaded.update(child_states())
        while not self._ending:
            for key, _ in self._selector.select():
                if key.fileobj is self._control:
                    self._handle_request()
                else:
                    self._clear_wakeup()
            self._reap()
        self._kill_all()

    def _handle_signals(self) -> None:
        """Wake the selector for every signal, so that exits of workers are reported at once."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end_without_host)
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)

    def _end_without_host(self, *_: object) -> None:
        """End if the host has exited, of which the kernel informs this process by SIGTERM; otherwise ignore it."""
        if os.getppid() != self._parent:
            self._ending = True

    def _clear_wakeup(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wakeup, 4096)

    def _handle_request(self) -> None:
        data, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 2)
        if not data:
            self._ending = True
            return
        request = requests.decode(data)
        if isinstance(request, Signal):
            for pid, number in self._workers.items():
                if number == request.number:
                    signal_worker(pid, request.signal)
        else:
            self._fork(request, fds)

    def _fork(self, request: Fork, fds: list[int]) -> None:
        if len(fds) != 2:
            # The kernel drops the descriptors that exceed this process's limit.
            for fd in fds:
                os.close(fd)
            self._report(Refused(request.number, errno.EMFILE))
            return
        channel, output = fds
        try:
            parent = os.getpid()
            pid = os.fork()
        except OSError as error:
            self._report(Refused(request.number, error.errno or errno.EAGAIN))
        else:
            if pid == 0:
                self._become_worker(channel, output, parent)
            with suppress(OSError):
                # In both processes, as either may run first: no signal can then miss the group.
                os.setpgid(pid, pid)
            self._workers[pid] = request.number
            self._report(Forked(request.number, pid))
        finally:
            os.close(channel)
            os.close(output)

    def _become_worker(self, channel: int, output: int, parent: int) -> NoReturn:
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            self._control.close()
            os.close(self._wakeup)
            os.close(self._waker)
            self._redirect_standard_streams(output)
            worker.main(channel, parent)
        finally:
            # A worker that fails here must not continue as a second fork server.
            os._exit(1)

    @staticmethod
    def _redirect_standard_streams(output: int) -> None:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for fd in (null, output):
            if fd > 2:
                os.close(fd)

    def _reap(self) -> None:
        """Reap the children that have exited, adopted orphans included, and report those that are workers."""
        reaped = False
        while True:
            try:
                child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if child is None:
                if reaped:
                    self._kill_orphans()
                return
            reaped = True
            number = self._workers.get(child.si_pid)
            if number is not None:
                # Before it is reaped: until then the kernel cannot give its process ID to another group.
                signal_worker(child.si_pid, signal.SIGKILL)
            _, status, usage = os.wait4(child.si_pid, 0)
            if number is not None:
                del self._workers[child.si_pid]
                signaled = os.WIFSIGNALED(status)
                code = None if signaled else os.WEXITSTATUS(status)
                self._report(Exited(number, code, os.WTERMSIG(status) if signaled else None, usage.ru_maxrss * 1024))

    def _kill_orphans(self) -> None:
        """Kill the descendants of workers that have ended.

        A worker adopts its own orphans as long as it lives, so this process has only those of ended workers.
        """
        for pid in child_states():
            if pid not in self._workers and pid not in self._preloaded:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def _report(self, notice: Forked | Refused | Exited) -> None:
        try:
            self._control.sendall(encode(notice))
        except (BrokenPipeError, ConnectionResetError):
            self._ending = True

    def _kill_all(self) -> None:
        for pid in self._workers:
            signal_worker(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                # Until no child is left: the descendants of a worker become children when it has ended.
                pid, _ = os.waitpid(-1, 0)
                self._workers.pop(pid, None)
                self._preloaded.clear()
                self._kill_orphans()


def preload(modules: list[str]) -> None:
    """Import modules that workers need; warn about those that cannot be imported, and about threads."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if name not in OPTIONAL or error.name != name:
                _warn(f"{name}: {error}")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a package may raise anything
            _warn(f"{name}: {type(error).__name__}: {error}")
    with suppress(OSError):
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1:
            names = ", ".join(modules)
            _warn(f"{names}: importing started {threads - 1} threads, which workers do not inherit; do not preload it")


def _warn(text: str) -> None:
    # Standard error is a pipe to the host's log.
    sys.stderr.write(f"preload: {text}\n")


def main(arguments: list[str]) -> None:
    """Run a fork server with these arguments.

    Control socket, process ID of the parent, whether workers are confined (1 or 0), modules to preload.
    """
    fd, parent, is_confined, modules = int(arguments[0]), int(arguments[1]), arguments[2] == "1", arguments[3:]
    ignore_host_signals()
    set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:
        return
    adopt_descendants()
    server = ForkServer(socket.socket(fileno=fd), parent)
    # It freezes the imported objects: the garbage collector would write to their pages, and so unshare them.
    with reduced_gc():
        preload(modules)
        shared_paths()
        if is_confined:
            confine_process()
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
