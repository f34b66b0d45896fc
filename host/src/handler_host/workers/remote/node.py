"""Start one worker process on the machine where this runs, on behalf of an engine."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

from handler_host.workers.child_processes import signal_worker
from handler_host.workers.remote.engine import EngineError
from handler_host.workers.worker_process import ExitStatus, reap, wait_for_exit

COMMAND = (sys.executable, "-P", "-m", "handler_host.workers.runtime.remote")


class NodeWorker:
    """A worker process, a child of this process, which ends with the thread that has started it.

    ``connection`` is that of the :class:`handler_host.workers.remote.engine.WorkerRequest`.
    Raises :class:`EngineError` if it cannot be started.
    """

    def __init__(self, connection: bytes, command: Sequence[str] = COMMAND) -> None:
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)
        except OSError as error:
            raise EngineError(f"the interpreter {command[0]!r} cannot be started: {error.strerror}") from error
        assert self._process.stdin is not None, "a pipe"
        # Shorter than the buffer of a pipe, so this never blocks.
        self._process.stdin.write(connection + b"\n")
        self._process.stdin.close()
        self._is_reaped = False

    @property
    def pid(self) -> int:
        """Its process ID on this machine."""
        return self._process.pid

    async def wait(self) -> ExitStatus:
        """Wait until its process has exited and its process group is killed."""
        await wait_for_exit(self.pid)
        self._is_reaped = True
        return reap(self._process)

    def kill(self) -> None:
        """Kill its process and its process group."""
        if not self._is_reaped:
            signal_worker(self.pid, signal.SIGKILL)
