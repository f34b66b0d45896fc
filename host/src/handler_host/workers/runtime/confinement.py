"""Confinement of a worker by the kernel: protects the host, other workers and their files from its plugin.

A few system calls of the worker itself before it loads its plugin, inherited by its descendants:

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
DROPPED_CAPABILITIES = {
    "LINUX_IMMUTABLE": 9,
    "NET_ADMIN": 12,
    "SYS_MODULE": 16,
    "SYS_RAWIO": 17,
    "SYS_CHROOT": 18,
    "SYS_PTRACE": 19,
    "SYS_PACCT": 20,
    "SYS_ADMIN": 21,
    "SYS_BOOT": 22,
    "SYS_NICE": 23,
    "SYS_RESOURCE": 24,
    "SYS_TIME": 25,
    "MKNOD": 27,
    "AUDIT_CONTROL": 30,
    "MAC_OVERRIDE": 32,
    "MAC_ADMIN": 33,
    "SYSLOG": 34,
    "PERFMON": 38,
    "BPF": 39,
    "CHECKPOINT_RESTORE": 40,
}
"""Capabilities with their numbers: with PERFMON or SYS_ADMIN the environment of any process is readable."""


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
    if sys.platform != "linux":
        return Confinement((), (f"{sys.platform} has no Landlock",))
    measures: list[str] = []
    missing: list[str] = []
    for step in (_refuse_privileges, _drop_capabilities, _restrict_files, _filter_system_calls):
        try:
            measures += step(spec)
        except ConfinementError as error:
            missing.append(str(error))
    if "files" in measures and "signals" not in measures:
        missing.append("this kernel cannot restrict signals (Linux 6.12 can)")
    return Confinement(tuple(measures), tuple(missing))


def _refuse_privileges(_: frames.WorkerSpec) -> list[str]:
    if kernel.prctl(PR_SET_NO_NEW_PRIVS) != 0:
        raise ConfinementError("the kernel refuses no_new_privs")
    return ["no_new_privs"]


def _restrict_files(spec: frames.WorkerSpec) -> list[str]:
    """Enter a Landlock domain."""
    abi = restrict(readable_paths(spec), writable_paths(spec))
    return ["files", "processes", *(["signals"] if abi >= ABI_WITH_SCOPES else [])]


def _filter_system_calls(_: frames.WorkerSpec) -> list[str]:
    filter_system_calls()
    return ["system calls"]


def _drop_capabilities(_: frames.WorkerSpec) -> list[str]:
    """Drop capabilities from all sets, the bounding set included, so that no program of this process gets them."""
    if os.geteuid() != 0:
        return []
    numbers = tuple(DROPPED_CAPABILITIES.values())
    for number in numbers:
        kernel.prctl(PR_CAPBSET_DROP, number)  # fails without CAP_SETPCAP, and then there is little to drop
    if not kernel.drop_capabilities(numbers):
        raise ConfinementError("the kernel refuses to drop capabilities")
    return ["capabilities"]
