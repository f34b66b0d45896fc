"""A seccomp filter: system calls on other processes and on the kernel, which no plugin needs, end with ``EPERM``."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from handler_host.workers.runtime.kernel import ConfinementError, system_call

ARCHITECTURES = {"x86_64": (0xC000003E, 0, 317), "aarch64": (0xC00000B7, 1, 277)}
"""By machine: the kernel's mark, the column of ``REFUSED``, the number of ``seccomp`` itself."""

REFUSED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
}
"""Numbers of the refused system calls, on x86_64 and aarch64."""
PRLIMIT64 = (302, 261)
"""Allowed on the process itself."""
X32_BIT = 0x40000000
"""Marks the system calls of a second ABI on x86_64, which would pass by the numbers of the first."""

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1 << 2
"""Without it, kernels before 5.16 make every branch of the process slower."""
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | errno.EPERM
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Places in ``struct seccomp_data``; the lower half of the argument on these little-endian machines."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def filter_system_calls() -> None:
    """Refuse the system calls for this process and its descendants; raises ``ConfinementError``.

    The process must have ``no_new_privs``.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES or sys.maxsize < 2**32:
        raise ConfinementError(f"seccomp: {machine} is not supported")
    mark, column, seccomp = ARCHITECTURES[machine]
    code = build_filter(mark, column, os.getpid())
    program = _Program(len(code) // 8, code)
    system_call("seccomp", seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, ctypes.byref(program))


def build_filter(mark: int, column: int, pid: int) -> bytes:
    """Return the program of the filter, for an architecture and this process ID. Pure."""
    numbers = [call[column] for call in REFUSED.values()]
    # Each jump counts from the next instruction; the last two instructions allow and refuse.
    allow = 4 + len(numbers) + 4
    refuse = allow + 1
    program = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 0, refuse - 2, mark),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, refuse - 4, 0, X32_BIT),
        *((EQUAL, refuse - place - 1, 0, number) for place, number in enumerate(numbers, 4)),
        (EQUAL, 0, 3, PRLIMIT64[column]),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 1, 0, 0),
        (EQUAL, 0, 1, pid),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
