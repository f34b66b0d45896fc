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


def keep_capabilities(kept: int) -> bool:
    """Drop all capabilities but those with a bit in ``kept``; return whether the kernel accepts it."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # the low halves of the effective, permitted and inheritable set, then the high ones
    if _libc.capget(header, sets) != 0:
        return False
    for place in range(6):
        sets[place] &= kept >> (32 * (place // 3)) & 0xFFFFFFFF
    return int(_libc.capset(header, sets)) == 0
