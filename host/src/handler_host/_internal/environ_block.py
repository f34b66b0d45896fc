"""Clear the environment of this process: from Python, and from the block that the kernel shows to other processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

ENV_START, ENV_END = 47, 48
"""Fields of ``/proc/self/stat`` after the command: the first and the last address of the block."""


def clear_environ(is_kept: Callable[[str], bool]) -> None:
    """Remove all variables but the kept ones, and overwrite them in ``/proc/PID/environ`` (Linux).

    The block is the memory that the kernel has filled when this program was started, and nothing else changes it.
    Programs that this process starts later get the kept variables only.
    """
    removed = [name for name in os.environ if not is_kept(name)]
    for name in removed:
        del os.environ[name]
    # Elsewhere, and where a sandbox forbids it, the block stays as it is.
    with suppress(OSError, IndexError, ValueError):
        _overwrite({os.fsencode(name) for name in removed})


def _overwrite(names: set[bytes]) -> None:
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[ENV_START]), int(fields[ENV_END])
    # Through the file of the memory: it needs no ctypes, which would cost an idle host 300 KB.
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        block = memory.read(end - start)
        place = start
        for entry in block.split(b"\0"):
            if entry.partition(b"=")[0] in names:
                memory.seek(place)
                memory.write(bytes(len(entry)))
            place += len(entry) + 1
