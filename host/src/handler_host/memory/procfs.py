"""Memory of one process as the kernel reports it, PSS where the system has it.

All functions are synchronous and take up to a few milliseconds; the event loop
runs them in a thread.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

Measure = Literal["pss", "uss", "rss"]
MAX_DESCENDANTS = 1_000
"""Descendants of one worker that are measured: each costs a tenth of a millisecond."""


class Memory(msgspec.Struct, frozen=True):
    """Memory of one process, in bytes. ``pss`` holds the figure named by ``measure`` without PSS."""

    pss: int
    uss: int
    rss: int
    measure: Measure = "pss"
    peak: int = 0
    """The most it ever used: ``pss``, plus how far its resident memory was above today's at its highest."""
    anonymous: int = 0
    """Its share of memory that no file backs, which the kernel cannot drop; 0 where the kernel does not report it."""
    droppable: int = 0
    """The part of ``pss`` that the kernel can drop and read again: pages of files, but for those that are locked."""


def read_memory(pid: int) -> Memory | None:
    """Return the memory of a process, or None if it has ended (a zombie uses nothing)."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        # The process has ended, or the kernel is older than the file, or /proc is missing.
        gone = Path("/proc/self").exists() and not Path(f"/proc/{pid}").exists()
        return None if gone else read_other_memory(pid)
    except OSError:
        return read_other_memory(pid)
    sizes = dict.fromkeys(_ROLLUP, 0)
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in sizes:
            sizes[name] = int(rest.split()[0]) * 1024
    if not sizes["Rss"]:
        return None
    return Memory(
        pss=sizes["Pss"],
        uss=sizes["Private_Clean"] + sizes["Private_Dirty"] + sizes["Private_Hugetlb"],
        rss=sizes["Rss"],
        # Memory that came and went since is the process's own: the pages it shares were there at its fork.
        peak=sizes["Pss"] + max(0, _highest_resident(pid) - sizes["Rss"]),
        anonymous=sizes["Pss_Anon"] + sizes["Pss_Shmem"],
        # Locked pages may be anonymous: then this is too low, never too high.
        droppable=max(0, sizes["Pss_File"] - sizes["Locked"]),
    )


def read_tree_memory(pid: int) -> Memory | None:
    """Return the memory of a process together with that of its descendants, or None if it has ended."""
    own = read_memory(pid)
    descendants = find_descendants(pid) if own is not None else []
    if own is None or not descendants:
        return own
    others = [memory for memory in map(read_memory, descendants) if memory is not None]
    added_pss = sum(memory.pss for memory in others)
    return msgspec.structs.replace(
        own,
        pss=own.pss + added_pss,
        uss=own.uss + sum(memory.uss for memory in others),
        rss=own.rss + sum(memory.rss for memory in others),
        peak=own.peak + added_pss,
        anonymous=own.anonymous + sum(memory.anonymous for memory in others),
        droppable=own.droppable + sum(memory.droppable for memory in others),
    )


def find_descendants(pid: int) -> list[int]:
    """Return the descendants of a process, at most ``MAX_DESCENDANTS``; none where the kernel does not list them."""
    descendants: list[int] = []
    waiting = [pid]
    while waiting and len(descendants) < MAX_DESCENDANTS:
        directory = f"/proc/{waiting.pop()}/task"
        with suppress(OSError, ValueError):
            for thread in os.listdir(directory):
                with open(f"{directory}/{thread}/children") as file:
                    children = list(map(int, file.read().split()))
                descendants += children
                waiting += children
    return descendants[:MAX_DESCENDANTS]


_ROLLUP = (
    "Pss",
    "Rss",
    "Pss_Anon",
    "Pss_File",
    "Pss_Shmem",
    "Private_Clean",
    "Private_Dirty",
    "Private_Hugetlb",
    "Locked",
)


def _highest_resident(pid: int) -> int:
    for line in read_lines(Path(f"/proc/{pid}/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def read_other_memory(pid: int) -> Memory | None:
    """Return the memory of a process by the next best measure: USS, or where that is not allowed, RSS."""
    import psutil  # only where the system has no PSS to read

    try:
        process = psutil.Process(pid)
        try:
            full = process.memory_full_info()
            return Memory(full.uss, full.uss, full.rss, "uss", peak=full.uss)
        except psutil.AccessDenied:
            rss = process.memory_info().rss
            return Memory(rss, rss, rss, "rss", peak=rss)
    except psutil.NoSuchProcess:
        return None


def read_lines(path: Path) -> list[str]:
    """Return the lines of a small file of the kernel; none if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
