"""Child processes: signals to a worker, and all children of this process. Imports nothing that a fork server lacks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress


def signal_worker(pid: int, number: int) -> None:
    """Send a signal to a worker and to its process group, which it may have left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
    with suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) != pid:
            os.kill(pid, number)


def child_states() -> dict[int, bytes]:
    """Return the state of each child of this process (``S``, ``Z``) by process ID, adopted orphans included.

    Linux only; elsewhere it is empty.
    """
    return {pid: state for pid, state, _ in _children()}


def has_zombie() -> bool:
    """Return whether a child has exited and is not reaped; costs one system call."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def reap_daemons() -> None:
    """Reap the exited orphans that this process has adopted and certainly not started (Linux).

    A child that it has started is in its session, or leads a session; the code that started it may still ask for its
    exit status. An orphan of a third session was started by another process.
    """
    if sys.platform != "linux" or not has_zombie():
        return
    own_session = os.getsid(0)
    for pid, state, session in _children():
        if state == b"Z" and session not in (own_session, pid):
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _children() -> Iterator[tuple[int, bytes, int]]:
    """Yield process ID, state and session of each child of this process."""
    parent = str(os.getpid()).encode()
    with suppress(OSError):
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with suppress(OSError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
                # The fields after the command, which may have any bytes: state, parent, process group, session.
                state, parent_of_child, _, session = file.read(4096).rpartition(b")")[2].split()[:4]
                if parent_of_child == parent:
                    yield int(name), state, int(session)
