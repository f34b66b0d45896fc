"""Landlock: a domain of this process and its descendants, which the kernel (Linux 5.13) keeps from everything else.

It refuses ``ptrace``, ``/proc/PID/mem``, ``/proc/PID/environ`` and ``pidfd_getfd`` for every process outside of the
domain, files outside of the given directories, and since Linux 6.12 signals and abstract Unix sockets.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from handler_host.workers.runtime.kernel import ConfinementError, system_call

SYS_CREATE_RULESET = 444
SYS_ADD_RULE = 445
SYS_RESTRICT_SELF = 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
SCOPE_SIGNAL = 1 << 1
ABI_WITH_SCOPES = 6
"""Version of Landlock that restricts signals and abstract sockets (Linux 6.12)."""

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK, REFER, TRUNCATE = 1 << 6, 1 << 11, 1 << 13, 1 << 14
FIRST_ACCESSES = (1 << 13) - 1
"""The accesses of the first version: up to the creation of links; later versions add one bit each."""
READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
"""The accesses that a rule for a file, not for a directory, may have."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


def find_abi() -> int:
    """Return the version of Landlock that the kernel has; raises ``ConfinementError`` without it."""
    return _call(SYS_CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)


def restrict(readable: Iterable[str], writable: Iterable[str]) -> int:
    """Restrict this process to these files and directories, and return the version; raises ``ConfinementError``.

    Paths that are missing are left out. The process must have one thread, and ``no_new_privs``.
    """
    abi = find_abi()
    handled = FIRST_ACCESSES | (REFER if abi >= 2 else 0) | (TRUNCATE if abi >= 3 else 0)
    scopes = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if abi >= ABI_WITH_SCOPES else 0
    attributes = _Ruleset(handled, 0, scopes)
    # Older kernels know a shorter structure.
    size = ctypes.sizeof(attributes) if abi >= ABI_WITH_SCOPES else ctypes.sizeof(ctypes.c_uint64)
    ruleset = _call(SYS_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    rule = _PathBeneath(0, 0)
    try:
        for paths, access in ((readable, READ), (writable, handled & ~(MAKE_CHAR | MAKE_BLOCK))):
            for path in paths:
                _allow(ruleset, path, access, rule)
        _call(SYS_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: str, access: int, rule: _PathBeneath) -> None:
    try:
        rule.fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):
        return
    try:
        rule.allowed = access if stat.S_ISDIR(os.fstat(rule.fd).st_mode) else access & OF_FILES
        # Pipes and sockets, to which links in /proc lead, are not restricted, and refuse a rule.
        with suppress(ConfinementError):
            _call(SYS_ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(rule.fd)


def _call(number: int, *arguments: object) -> int:
    return system_call("Landlock", number, *arguments)
