"""Child processes: signals to a worker, and all children of this process. Imports nothing that a fork server lacks."""

from __future__ import annotations

import os
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
    parent = str(os.getpid()).encode()
    states: dict[int, bytes] = {}
    with suppress(OSError):
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with suppress(OSError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
                # The fields after the command, which may have any bytes: state, parent.
                state, parent_of_child = file.read(4096).rpartition(b")")[2].split()[:2]
                if parent_of_child == parent:
                    states[int(name)] = state
    return states
