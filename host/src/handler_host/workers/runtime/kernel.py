"""System calls that Python has no function for. The fork server imports it once for all workers."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


class ConfinementError(Exception):
    """The kernel refuses a measure; the message names it."""


def system_call(measure: str, number: int, *arguments: object) -> int:
    """Make a system call by its number; raises ``ConfinementError`` that names ``measure``."""
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise ConfinementError(f"{measure}: {os.strerror(ctypes.get_errno())}")
    return result


def prctl(option: int, argument: int = 1) -> int:
    """Change a property of this process; return 0, or -1 where the kernel refuses."""
    return int(_libc.prctl(option, argument, 0, 0, 0))


def drop_capabilities(numbers: tuple[int, ...]) -> bool:
    """Drop capabilities from the effective, permitted and inheritable set; return whether the kernel accepts it."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # first the low halves of the three sets, then the high ones
    if _libc.capget(header, sets) != 0:
        return False
    for number in numbers:
        half, bit = divmod(number, 32)
        for kind in range(3):
            sets[3 * half + kind] &= ~(1 << bit) & 0xFFFFFFFF
    return int(_libc.capset(header, sets)) == 0
