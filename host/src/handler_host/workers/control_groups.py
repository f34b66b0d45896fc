"""Control groups of workers, one for each: the kernel kills a worker with all that it has started, and nothing else.

Below the group that the host was started in (v2 allows processes only in groups without child groups)::

    handler-host/             v2: the host, the fork server, and other processes that the host starts
    handler-host-workers/     limited to the memory limit less the headroom, so that the kernel kills a worker first
        4711/                 one worker, by its process ID, limited to memory_hard_limit

All functions are synchronous and wait for the kernel; the event loop runs them in a thread.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from handler_host.memory.cgroups import HOST_GROUP, OOM_GROUP, WORKERS_GROUP, control_groups
from handler_host.memory.pressure import read_kills

REMOVE_TIMEOUT = 5.0
"""Seconds in which the killed processes of a group must have ended."""

_LIMITS = {"cgroup v2": "memory.max", "cgroup v1": "memory.limit_in_bytes"}


class ControlGroups:
    """The groups of all workers of this host; ``base`` is the group that it was started in."""

    def __init__(self, version: str, base: Path) -> None:
        self.version = version
        self._base = base
        self.workers = base / WORKERS_GROUP
        """The group of all workers, which other hosts in the same base use, too."""
        self._groups: set[Path] = set()
        """Groups of the workers of this host."""
        self._enabled: str | None = None
        """The controller that this host has enabled for child groups (v2)."""

    def check(self, controller: str = "memory") -> None:
        """Raise ``OSError`` if this process may not make control groups here, or they cannot be limited."""
        if not os.access(self._base, os.W_OK):
            raise PermissionError(errno.EACCES, "this process may not make control groups", str(self._base))
        controllers = self._base / "cgroup.controllers"
        if self.version == "cgroup v2" and controller not in controllers.read_text().split():
            raise OSError(errno.ENOTSUP, f"the controller {controller} is not available", str(controllers))

    def open(self, controller: str = "memory") -> None:
        """Create the group of all workers, and of the host; raises ``OSError``, and then nothing has changed."""
        self.check(controller)
        try:
            self.workers.mkdir(exist_ok=True)
            for group in self.workers.iterdir():
                with suppress(OSError):  # has processes, or is a file
                    group.rmdir()  # of a host that was killed
            if self.version == "cgroup v2":
                (self._base / HOST_GROUP).mkdir(exist_ok=True)
                _write(self._base / HOST_GROUP / "cgroup.procs", os.getpid())
                passed_on = self._base / "cgroup.subtree_control"
                if controller not in passed_on.read_text().split():
                    # Fails while other processes are in the group of the base.
                    _write(passed_on, f"+{controller}")
                    self._enabled = controller
                _write(self.workers / "cgroup.subtree_control", f"+{controller}")
        except OSError:
            self.close()
            raise

    def add(self, pid: int, all_workers: int, limit: int | None) -> Path:
        """Move a process to a group of its own; raises ``OSError``.

        ``all_workers`` is the limit in bytes of all groups together, ``limit`` that of this one.
        """
        with suppress(OSError):  # v1 refuses a limit below the usage
            _write(self.workers / _LIMITS[self.version], all_workers)
        group = self.workers / str(pid)
        group.mkdir(exist_ok=True)  # an earlier worker with this process ID has left it, with a daemon
        try:
            if limit is not None:
                _write(group / _LIMITS[self.version], limit)
            if (group / OOM_GROUP).exists():
                _write(group / OOM_GROUP, 1)
            _write(group / "cgroup.procs", pid)
        except OSError:
            group.rmdir()
            raise
        self._groups.add(group)
        return group

    def remove(self, group: Path) -> int:
        """Kill the processes of a worker's group and remove it; return how many the kernel had killed for memory.

        Raises ``OSError`` if a process does not end.
        """
        kills = read_kills(self.version, group) or 0
        deadline = time.monotonic() + REMOVE_TIMEOUT
        while True:
            _kill_all(group)
            try:
                group.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
            else:
                self._groups.discard(group)
                return kills

    def close(self) -> None:
        """Remove the groups of this host; this process returns to the base."""
        for group in tuple(self._groups):
            with suppress(OSError):
                self.remove(group)
        with suppress(OSError):  # another host has workers in it
            self.workers.rmdir()
        if self.version == "cgroup v2":
            with suppress(OSError):
                if self._enabled is not None:
                    _write(self._base / "cgroup.subtree_control", f"-{self._enabled}")
                _write(self._base / "cgroup.procs", os.getpid())
                (self._base / HOST_GROUP).rmdir()


def find_control_groups(root: Path = Path("/")) -> ControlGroups:
    """Return the groups at the place where the kernel counts this process's memory; raises ``OSError``."""
    bases = {version: directories[0] for version, directories in control_groups(root)}
    # Where both versions are mounted, memory is a controller of v1.
    for version in ("cgroup v1", "cgroup v2"):
        if version in bases:
            return ControlGroups(version, bases[version])
    raise FileNotFoundError(errno.ENOENT, "no control groups are mounted")


def open_control_groups() -> ControlGroups:
    """Return the groups of this host's workers after creating them; raises ``OSError``."""
    groups = find_control_groups()
    groups.open()
    return groups


def _kill_all(group: Path) -> None:
    if (group / "cgroup.kill").exists():
        _write(group / "cgroup.kill", 1)
        return
    for pid in map(int, (group / "cgroup.procs").read_text().split()):
        if pid > 0:  # 0 is a process outside of this namespace
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _write(path: Path, value: int | str) -> None:
    path.write_text(str(value))
