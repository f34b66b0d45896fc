"""A seccomp filter: system calls on other processes and on the kernel, which no plugin needs, end with ``EPERM``.

The list follows the default filter of Docker: mounts, namespaces, keys, modules and tracing of the kernel, and parts
of it (``io_uring``, ``userfaultfd``) that attacks on the kernel have used often.
"""

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
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "syslog": (103, 116),
    "acct": (163, 89),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
}
"""Numbers of the refused system calls, on x86_64 and aarch64."""
CLONE, CLONE3, UNSHARE = (56, 220), (435, 435), (272, 97)
NAMESPACES = 0x7E020080
"""The flags of ``clone`` and ``unshare`` for new namespaces: they open parts of the kernel that only root reaches."""
IOCTL = (16, 29)
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
"""They type into a terminal, such as that of the operator who has started the host."""
PRLIMIT64 = (302, 261)
"""Allowed on the process itself, and to read the limits of others."""
X32_BIT = 0x40000000
"""Marks the system calls of a second ABI on x86_64, which would pass by the numbers of the first."""

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1 << 2
"""Without it, kernels before 5.16 make every branch of the process slower."""
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | errno.EPERM
PRETEND_MISSING = 0x00050000 | errno.ENOSYS
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, (16, 24, 32)
"""Places in ``struct seccomp_data``; the lower halves of the arguments on these little-endian machines."""

Instruction = tuple[int, int, int, int]
"""Operation, instructions to skip if its comparison holds and if not, operand."""


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
    code = build_filter(mark, column)
    program = _Program(len(code) // 8, code)
    system_call("seccomp", seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, ctypes.byref(program))


def build_filter(mark: int, column: int) -> bytes:
    """Return the program of the filter for an architecture. Pure."""
    allow, refuse = (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)
    program: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, mark),
        refuse,
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32_BIT),
        refuse,
        # The filter cannot read the flags of clone3; without it, the C library calls clone.
        *_for_call(CLONE3[column], (RETURN, 0, 0, PRETEND_MISSING)),
    ]
    for call in (CLONE, UNSHARE):
        program += _for_call(call[column], (LOAD, 0, 0, ARGUMENTS[0]), (ANY_BIT, 0, 1, NAMESPACES), refuse, allow)
    program += _for_call(
        IOCTL[column], (LOAD, 0, 0, ARGUMENTS[1]), (EQUAL, 1, 0, TIOCSTI), (EQUAL, 0, 1, TIOCLINUX), refuse, allow
    )
    program += _for_call(
        PRLIMIT64[column],
        *((LOAD, 0, 0, ARGUMENTS[0]), (EQUAL, 4, 0, 0)),
        # New limits: a pointer, thus two halves.
        *((LOAD, 0, 0, ARGUMENTS[2]), (EQUAL, 0, 3, 0), (LOAD, 0, 0, ARGUMENTS[2] + 4), (EQUAL, 0, 1, 0)),
        *(allow, refuse),
    )
    numbers = [call[column] for call in REFUSED.values()]
    program += [(EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    program += [allow, refuse]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _for_call(number: int, *instructions: Instruction) -> list[Instruction]:
    """Return instructions for one system call, which the filter skips for every other; the last one must return."""
    return [(EQUAL, 0, len(instructions), number), *instructions]
