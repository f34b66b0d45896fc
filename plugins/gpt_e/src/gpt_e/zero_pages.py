"""Give zeroed memory back to the kernel until it is used.

llama.cpp fills its cache of keys and values with zeros when it loads a model, so that all of it is resident: 45 MB for
the small model, of which a short chat uses 2 MB. A page of private anonymous memory that is dropped reads as zeros.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import NamedTuple

MIN_BYTES = 16 * 1024 * 1024
"""Size of the smallest mapping that is looked at: larger than the stack of a thread, which the thread writes to."""
MAX_BYTES = 1024 * 1024 * 1024
"""Size of the largest one: to read more would take seconds."""
_ARENA_BYTES = 64 * 1024 * 1024
"""Alignment of an arena of glibc's allocator, which any thread may write to."""
_STEP = 1024 * 1024
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0\s*")


class Mapping(NamedTuple):
    """A private anonymous mapping, from ``start`` to ``end``."""

    start: int
    end: int


def anonymous_mappings() -> set[Mapping]:
    """Return the large private anonymous mappings of this process; none where the kernel is not Linux."""
    if sys.platform != "linux":
        return set()
    with open("/proc/self/maps") as maps:
        matches = map(_MAPPING.fullmatch, maps)
        mappings = {Mapping(int(match[1], 16), int(match[2], 16)) for match in matches if match is not None}
    large = (mapping for mapping in mappings if MIN_BYTES <= mapping.end - mapping.start <= MAX_BYTES)
    return {mapping for mapping in large if mapping.start % _ARENA_BYTES != 0}


def drop_zero_pages(mappings: set[Mapping]) -> int:
    """Drop the parts of ``mappings`` that are all zeros; return their bytes.

    No thread may write to them meanwhile.
    """
    if not mappings:
        return 0
    zeros = bytes(_STEP)
    dropped = 0
    try:
        memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0  # a process that may not read itself (PR_SET_DUMPABLE) keeps the pages
    try:
        for start, end in mappings:
            with suppress(OSError):  # of a mapping that llama.cpp has freed
                for address in range(start, end, _STEP):
                    size = min(_STEP, end - address)
                    is_zero = os.pread(memory, size, address) == zeros[:size]
                    if is_zero and advise(address, size, mmap.MADV_DONTNEED):
                        dropped += size
    finally:
        os.close(memory)
    return dropped


def advise(address: int, size: int, advice: int) -> bool:
    """Advise the kernel on the use of memory (madvise(2)); return whether it followed."""
    return bool(_madvise()(address, size, advice) == 0)


@cache
def _madvise() -> Callable[[int, int, int], int]:
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return madvise
