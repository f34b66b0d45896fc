"""Confinement of a worker by the kernel: protects the host, other workers and their files from its plugin.

A few system calls of the worker, or of the fork server for it, before it loads its plugin; descendants inherit them:

* ``no_new_privs``: programs with set-user-ID bits get no privileges;
* as root: the capabilities to read and change other processes and the system are dropped for good;
* a Landlock domain (``landlock.py``) with the files that the worker needs (``file_rules.py``);
* a seccomp filter (``seccomp.py``);
* a child subreaper: daemons of the plugin stay its descendants, and end with it.

``docs/explanation/security.md`` has the threat model.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from handler_host.channel import frames
from handler_host.workers.runtime import kernel
from handler_host.workers.runtime.file_rules import readable_paths, writable_paths
from handler_host.workers.runtime.kernel import ConfinementError
from handler_host.workers.runtime.landlock import ABI_WITH_SCOPES, restrict
from handler_host.workers.runtime.seccomp import filter_system_calls

PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
KEPT_CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "NET_BIND_SERVICE": 10,
    "IPC_LOCK": 14,
}
"""Capabilities with their numbers: what programs of root need for their own files, processes and ports.

With others a plugin reads the environment of any process (SYS_ADMIN, PERFMON) or what passes through the network, keys
of clients included (NET_RAW).
"""
CAPABILITIES = 64
"""The numbers that a set has room for; the kernel refuses those that it does not know."""


def adopt_descendants() -> None:
    """Become the parent of orphaned descendants, in order to find and reap them (Linux)."""
    if sys.platform == "linux":
        kernel.prctl(PR_SET_CHILD_SUBREAPER)


class Confinement(NamedTuple):
    """The measures that are in force, and the reasons why others are not."""

    measures: tuple[str, ...]
    missing: tuple[str, ...]


def confine(spec: frames.WorkerSpec) -> Confinement:
    """Confine this process, which must have one thread, as far as the kernel can."""
    shared = confine_process()
    if sys.platform != "linux":
        return shared
    own = _apply(lambda: _restrict_files(spec))
    if own.measures and "signals" not in own.measures:
        own = own._replace(missing=("this kernel cannot restrict signals (Linux 6.12 can)",))
    return Confinement(shared.measures + own.measures, shared.missing + own.missing)


@cache
def confine_process() -> Confinement:
    """Apply the measures that are the same for all workers; the fork server does it once, and workers inherit them.

    They cost as much as the rules for files do (1 ms), most of it for pages that a forked process must copy.
    """
    if sys.platform != "linux":
        return Confinement((), (f"{sys.platform} has no Landlock",))
    return _apply(_refuse_privileges, _drop_capabilities, _filter_system_calls)


def _apply(*steps: Callable[[], list[str]]) -> Confinement:
    measures: list[str] = []
    missing: list[str] = []
    for step in steps:
        try:
            measures += step()
        except ConfinementError as error:
            missing.append(str(error))
    return Confinement(tuple(measures), tuple(missing))


def _refuse_privileges() -> list[str]:
    if kernel.prctl(PR_SET_NO_NEW_PRIVS) != 0:
        raise ConfinementError("the kernel refuses no_new_privs")
    return ["no_new_privs"]


def _restrict_files(spec: frames.WorkerSpec) -> list[str]:
    """Enter a Landlock domain."""
    abi = restrict(readable_paths(spec), writable_paths(spec))
    return ["files", "processes", *(["signals"] if abi >= ABI_WITH_SCOPES else [])]


def _filter_system_calls() -> list[str]:
    filter_system_calls()
    return ["system calls"]


def _drop_capabilities() -> list[str]:
    """Drop capabilities from all sets, the bounding set included, so that no program of this process gets them."""
    if os.geteuid() != 0:
        return []
    kept = KEPT_CAPABILITIES.values()
    for number in range(CAPABILITIES):
        if number not in kept and kernel.prctl(PR_CAPBSET_DROP, number) != 0:
            break  # unknown from here on, or without CAP_SETPCAP, and then there is little to drop
    if not kernel.keep_capabilities(sum(1 << number for number in kept)):
        raise ConfinementError("the kernel refuses to drop capabilities")
    return ["capabilities"]
