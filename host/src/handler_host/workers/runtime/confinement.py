"""Confinement of a worker by the kernel: what its plugin cannot do to the host and to other workers.

Four measures, each a few system calls of the worker itself before it loads its plugin, inherited by its descendants:

* ``no_new_privs``: programs with set-user-ID bits get no privileges;
* as root: the capabilities to read and change other processes and the system are dropped for good;
* a Landlock domain: the kernel refuses ``ptrace``, ``/proc/PID/mem``, ``/proc/PID/environ`` and ``pidfd_getfd`` for
  every process outside of the worker, and since Linux 6.12 signals and abstract Unix sockets to them;
* a child subreaper: daemons of the plugin stay its descendants, and end with it.

Files are not restricted. ``docs/explanation/security.md`` has the threat model.
"""

from __future__ import annotations

import os
import sys

PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
DROPPED_CAPABILITIES = {
    "SYS_MODULE": 16,
    "SYS_RAWIO": 17,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SYS_BOOT": 22,
    "PERFMON": 38,
    "BPF": 39,
}
"""Capabilities with their numbers: with PERFMON or SYS_ADMIN the environment of any process is readable."""
CAPABILITY_VERSION = 0x20080522
SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_RESTRICT_SELF = 446
CREATE_RULESET_VERSION = 1
ACCESS_FS_MAKE_BLOCK = 1 << 11
"""A domain must handle one access at least: block devices, which no plugin makes."""
SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
SCOPE_SIGNAL = 1 << 1
ABI_WITH_SCOPES = 6
"""Version of Landlock that restricts signals and abstract sockets (Linux 6.12)."""


class ConfinementError(Exception):
    """The kernel refuses a measure; the message names it."""


def adopt_descendants() -> None:
    """Become the parent of orphaned descendants, so that they can be found when this process ends (Linux)."""
    if sys.platform == "linux":
        _prctl(PR_SET_CHILD_SUBREAPER)


def confine() -> None:
    """Confine this process, which must have one thread; raises ``ConfinementError`` where the kernel cannot.

    Measures that the kernel has are in force even then.
    """
    if sys.platform != "linux":
        raise ConfinementError(f"{sys.platform} has no Landlock")
    if _prctl(PR_SET_NO_NEW_PRIVS) != 0:
        raise ConfinementError("the kernel refuses no_new_privs")
    import ctypes  # the worker has loaded it for its death signal

    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        _drop_capabilities()
    abi = libc.syscall(SYS_LANDLOCK_CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)
    if abi < 1:
        raise ConfinementError(f"Landlock: {os.strerror(ctypes.get_errno())}")
    scopes = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if abi >= ABI_WITH_SCOPES else 0
    # struct landlock_ruleset_attr: file system, network and scopes; older kernels know a shorter one.
    attributes = (ctypes.c_uint64 * 3)(ACCESS_FS_MAKE_BLOCK, 0, scopes)
    size = ctypes.sizeof(attributes) if abi >= ABI_WITH_SCOPES else ctypes.sizeof(ctypes.c_uint64)
    ruleset = libc.syscall(SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    if ruleset < 0:
        raise ConfinementError(f"Landlock: {os.strerror(ctypes.get_errno())}")
    try:
        if libc.syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
            raise ConfinementError(f"Landlock: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(ruleset)
    if abi < ABI_WITH_SCOPES:
        raise ConfinementError("this kernel cannot restrict signals (Linux 6.12 can)")


def _drop_capabilities() -> None:
    """Drop capabilities from all sets, the bounding set included, so that no program of this process gets them."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable: first their low halves, then their high ones
    if libc.capget(header, sets) != 0:
        raise ConfinementError("the kernel does not show capabilities")
    for number in DROPPED_CAPABILITIES.values():
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)  # fails without CAP_SETPCAP, and then there is little to drop
        half, bit = divmod(number, 32)
        for kind in range(3):
            sets[3 * half + kind] &= ~(1 << bit) & 0xFFFFFFFF
    if libc.capset(header, sets) != 0:
        raise ConfinementError("the kernel refuses to drop capabilities")


def _prctl(option: int) -> int:
    import ctypes  # the worker has loaded it for its death signal

    result: int = ctypes.CDLL(None, use_errno=True).prctl(option, 1, 0, 0, 0)
    return result
